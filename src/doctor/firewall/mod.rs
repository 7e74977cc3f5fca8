//! Other rule sets that drop our flows.
//!
//! A packet passes every base chain of a hook, and one that drops it is enough. So the first packet of each path is traced
//! through each base chain of other programs ([`crate::dataplane::trace`]). A finding means that it is dropped in any case: a
//! rule that depends on something unknown, such as the client's address, may let it pass. The tables of the families netdev,
//! bridge and arp are not read, because they see no translated packets.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod iptables;
mod links;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Context, Finding, MAX_PATHS, Path, listed, objects, parsed};
use crate::Error;
use crate::dataplane::render::TABLE;
use crate::dataplane::trace::{BaseChain, Elements, Interface, Packet, Ruleset, Segment};
use crate::ids::Family;

/// Maximum number of verdict maps that are read of a table.
const MAX_MAPS: usize = 64;

/// The families of tables that see translated packets.
const FAMILIES: [&str; 3] = ["ip", "ip6", "inet"];

/// The hooks where a flow can be dropped after its translation.
const HOOKS: [&str; 3] = ["forward", "input", "output"];

/// Part of a path that meets a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Passage {
    /// To a backend on another host.
    Forward,
    /// To a backend on this host.
    Input,
    /// To the daemon's own socket, while the target is not active.
    Cold,
    /// Of a held packet that is sent on.
    Output,
}

impl Passage {
    /// Its hook, and the code of a finding there.
    fn hook_and_code(self) -> (&'static str, &'static str) {
        match self {
            Passage::Forward => ("forward", "forward-drop"),
            Passage::Input => ("input", "input-drop"),
            Passage::Cold => ("input", "cold-drop"),
            Passage::Output => ("output", "output-drop"),
        }
    }
}

/// Checks the rule sets of other programs.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    // Table by table, so that the daemon's own, which can be large, is not read.
    let tables = match context.nft_json(&["-j", "list", "tables"]) {
        Ok(listing) => tables(&listing),
        Err(error) => return findings.push(Finding::not_checked("other rule sets", &error, "nft list ruleset")),
    };
    for (family, table) in tables {
        match read(context, &family, &table) {
            Ok((chains, rules)) => chains.iter().for_each(|chain| judge(chain, &rules, context, findings)),
            Err(error) => {
                let table = format!("table {family} {table}");
                findings.push(Finding::not_checked(&format!("the {table}"), &error, &format!("nft list {table}")));
            }
        }
    }
}

/// Family and name of the tables of other programs that see translated packets.
fn tables(listing: &Value) -> Vec<(String, String)> {
    let tables = objects(listing).iter().filter_map(|object| object.get("table"));
    let named = tables.filter_map(|table| Some((table["family"].as_str()?, table["name"].as_str()?)));
    let others = named.filter(|(family, name)| FAMILIES.contains(family) && (*family, *name) != ("inet", TABLE));
    others.map(|(family, name)| (family.to_owned(), name.to_owned())).collect()
}

/// The base chains of a table where a flow can be dropped after its translation, and all that they need.
fn read(context: &Context<'_>, family: &str, table: &str) -> Result<(Vec<BaseChain>, Ruleset), Error> {
    let listing = context.host.nft(&["-j", "-t", "list", "table", family, table])?;
    let native =
        iptables::needs_native(&listing).then(|| context.host.nft(&["-a", "-t", "list", "table", family, table]).ok());
    let mut objects = parsed(&listing)?;
    iptables::translate(&mut objects, native.flatten().as_deref().unwrap_or_default());
    let mut rules = Ruleset::read(&objects, Elements::Omitted);
    let mut chains = rules.base_chains();
    chains.retain(|chain| HOOKS.contains(&chain.hook.as_str()));
    let maps = if chains.is_empty() { BTreeSet::new() } else { rules.verdict_maps() };
    for map in maps.iter().take(MAX_MAPS) {
        // A map that cannot be read counts as unknown.
        if let Ok(listing) = context.nft_json(&["-j", "list", "map", family, table, map]) {
            rules.add(&listing, Elements::Listed);
        }
    }
    Ok((chains, rules))
}

/// Traces all paths through one base chain.
fn judge(chain: &BaseChain, rules: &Ruleset, context: &Context<'_>, findings: &mut Vec<Finding>) {
    let mut dropped: BTreeMap<Passage, Dropped> = BTreeMap::new();
    for path in context.scope.paths.iter().filter(|path| path.is_public()).take(MAX_PATHS) {
        let other = if Family::of(path.address.ip()) == Family::V4 { "ip6" } else { "ip" };
        if chain.family == other {
            continue;
        }
        for passage in passages(path).into_iter().filter(|passage| passage.hook_and_code().0 == chain.hook) {
            let links = dropped_links(passage, chain, rules, path, context);
            if !links.is_empty() {
                dropped.entry(passage).or_default().add(passage, path, links);
            }
        }
    }
    findings.extend(dropped.into_iter().map(|(passage, dropped)| finding(passage, chain, rules, dropped)));
}

/// Packets that one chain drops.
#[derive(Default)]
struct Dropped {
    about: Vec<String>,
    links: BTreeSet<String>,
    /// The ports of cold clients, by the match of their destination.
    ports: BTreeMap<String, BTreeSet<u16>>,
}

impl Dropped {
    fn add(&mut self, passage: Passage, path: &Path, links: Vec<String>) {
        let about = if passage == Passage::Cold { path.frontend_label() } else { path.endpoint_label() };
        if !self.about.contains(&about) {
            self.about.push(about);
        }
        self.links.extend(links);
        if passage == Passage::Cold {
            let listen = path.listen;
            let destination = match (listen.ip().is_unspecified(), listen.is_ipv4()) {
                (true, _) => String::new(),
                (false, true) => format!("ip daddr {} ", listen.ip()),
                (false, false) => format!("ip6 daddr {} ", listen.ip()),
            };
            self.ports.entry(destination).or_default().insert(listen.port());
        }
    }

    /// The rules that would accept them.
    fn rules(&self) -> Vec<String> {
        if self.ports.is_empty() {
            return vec!["ct status dnat accept".to_owned()];
        }
        let rule = |(destination, ports): (&String, &BTreeSet<u16>)| {
            let list: Vec<String> = ports.iter().map(u16::to_string).collect();
            match list.as_slice() {
                [port] => format!("{destination}tcp dport {port} accept"),
                _ => format!("{destination}tcp dport {{ {} }} accept", list.join(", ")),
            }
        };
        self.ports.iter().map(rule).collect()
    }
}

fn passages(path: &Path) -> Vec<Passage> {
    let mut all = vec![if path.local { Passage::Input } else { Passage::Forward }];
    all.extend(path.answers_cold().then_some(Passage::Cold));
    all.extend(path.cold.group().map(|_| Passage::Output));
    all
}

/// The interfaces whose clients are dropped.
fn dropped_links(
    passage: Passage,
    chain: &BaseChain,
    rules: &Ruleset,
    path: &Path,
    context: &Context<'_>,
) -> Vec<String> {
    let to_backend = if path.local { Some(Interface::LOOPBACK) } else { links::to(path.address.ip(), context) };
    let drops = |input| {
        let packet = Packet {
            protocol: path.protocol,
            source: None,
            destination: if passage == Passage::Cold { path.listen } else { path.address },
            translated_from: (passage != Passage::Cold).then_some(path.listen),
            input: Some(input),
            output: match passage {
                Passage::Forward => to_backend,
                // A held packet is sent to its original destination, and every chain of the hook sees it go there, also
                // after its translation.
                Passage::Output if path.listen.ip().is_unspecified() => Some(Interface::LOOPBACK),
                Passage::Output => links::to(path.listen.ip(), context),
                Passage::Input | Passage::Cold => Some(Interface::NONE),
            },
            segment: Segment::First,
            source_type: None,
            destination_type: None,
        };
        rules.trace(chain, &packet).drops()
    };
    if passage == Passage::Output {
        return drops(Interface::NONE).then(|| "this host".to_owned()).into_iter().collect();
    }
    let links = links::of_clients(path, context, to_backend);
    links.into_iter().filter(|link| drops((*link).into())).map(|link| link.name.clone()).collect()
}

fn finding(passage: Passage, chain: &BaseChain, rules: &Ruleset, dropped: Dropped) -> Finding {
    let BaseChain { family, table, name, hook, .. } = chain;
    let allowing = dropped.rules();
    let links = listed(&Vec::from_iter(dropped.links));
    let what = match passage {
        Passage::Forward => format!("flows from {links} to backends on other hosts"),
        Passage::Input => format!("flows from {links} to backends on this host"),
        Passage::Cold => format!("requests of cold clients from {links} to the daemon itself"),
        Passage::Output => {
            "held packets that are sent on, so that their clients wait for their own retransmission".to_owned()
        }
    };
    let problem = format!("the chain {name} of the table {family} {table} (hook {hook}) drops {what}");
    let chain = if rules.jumps_to(name, "DOCKER-USER") { "DOCKER-USER" } else { name.as_str() };
    let insert = |rule: &String| format!("nft insert rule {family} {table} {chain} {rule}");
    let remedy = allowing.iter().map(insert).collect::<Vec<_>>().join(" && ");
    let note = keeping(family, table, chain, &allowing, &dropped.ports);
    Finding::warning(passage.hook_and_code().1, problem, remedy).about(listed(&dropped.about)).note(note)
}

/// How the rules are made permanent, by the owner of the table where that is a well-known program.
fn keeping(
    family: &str,
    table: &str,
    chain: &str,
    allowing: &[String],
    ports: &BTreeMap<String, BTreeSet<u16>>,
) -> String {
    let ports: BTreeSet<u16> = ports.values().flatten().copied().collect();
    let of_iptables = ["FORWARD", "INPUT", "OUTPUT", "DOCKER-USER"].contains(&chain);
    match (family, table) {
        ("inet", "fw4") => {
            let file = format!("/usr/share/nftables.d/chain-pre/{chain}/proxygw.nft");
            format!("to keep it, write `{}` to {file}", allowing.join("; "))
        }
        ("inet", "firewalld") if !ports.is_empty() => {
            let ports: Vec<String> = ports.iter().map(|port| format!("--add-port={port}/tcp")).collect();
            format!("where firewalld runs: firewall-cmd --permanent {} && firewall-cmd --reload", ports.join(" "))
        }
        ("ip" | "ip6", "filter") if of_iptables => {
            let iptables = if family == "ip" { "iptables" } else { "ip6tables" };
            let command = |what: &str| format!("{iptables} -I {chain} {what} -j ACCEPT");
            let mut commands: Vec<String> =
                ports.iter().map(|port| command(&format!("-p tcp --dport {port}"))).collect();
            if commands.is_empty() {
                commands.push(command("-m conntrack --ctstate DNAT"));
            }
            format!("where {iptables} manages the table, since it cannot show rules of nft: {}", commands.join(" && "))
        }
        ("ip" | "ip6", "docker-bridges") => {
            "to keep it, start dockerd with --bridge-accept-fwmark=MARK, and set that mark on \
                                             `ct status dnat` before Docker's chain"
                .to_owned()
        }
        _ => "to keep it, write it where that rule set is loaded from".to_owned(),
    }
}
