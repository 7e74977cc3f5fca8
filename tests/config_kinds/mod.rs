//! Plugins with the kinds that the tests of the configuration need, none of which does anything.

#![allow(dead_code, reason = "each test uses some of it")]

use std::path::PathBuf;
use std::time::Duration;

use proxygw::config::{self, Protocol, Section, Setup};
use proxygw::plugin::{ColdPath, Error, Frontend, Namespace, Plugin, Registry, Target, TargetContext};

/// Reads a text with the test's kinds; the file is called `f`.
pub fn parse(text: &str) -> Result<Setup, String> {
    config::parse("f", text, &mut registry()).map_err(|error| error.to_string())
}

/// The plugins that every build has.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add("ctl", Box::new(Ctl));
    registry.add("static", Box::new(Static));
    registry
}

struct Ctl;

impl Plugin for Ctl {
    fn load(&mut self, config: &mut Section<'_>, _namespace: &mut Namespace) {
        config.optional::<PathBuf>("socket");
        let codec = config.optional::<String>("codec");
        if let Some(codec) = codec.filter(|codec| codec != "json" && codec != "cbor") {
            config.problem("codec", format_args!("{codec:?} is not a codec: write json or cbor"));
        }
        config.optional::<String>("mode");
        config.optional::<String>("group");
    }
}

struct Static;

impl Plugin for Static {
    fn load(&mut self, _config: &mut Section<'_>, namespace: &mut Namespace) {
        let frontend = |cold, keeps_warm| Some(Frontend { cold, keeps_warm, handler: None });
        namespace.frontend("always", move |_, _| frontend(ColdPath::Drop, true));
        namespace.frontend("http", move |spec, options| {
            options.required::<String>("content");
            if let Some(endpoint) = options.optional::<String>("endpoint")
                && !endpoint.starts_with('/')
            {
                options.problem("endpoint", format_args!("{endpoint:?} does not begin with a slash"));
            }
            if spec.protocol != Protocol::Tcp {
                options.problem("", "static:http is for the protocol tcp");
            }
            frontend(ColdPath::Local, false)
        });
        namespace.target("cmd", |_, options| {
            if options.required::<String>("command").is_some_and(|command| command.trim().is_empty()) {
                options.problem("command", "an empty command");
            }
            options.optional::<Duration>("stop_grace");
            Some(Box::new(Nothing))
        });
        namespace.target("none", |_, _| Some(Box::new(Nothing)));
    }
}

struct Nothing;

impl Target for Nothing {
    fn start(&mut self, _context: &TargetContext) -> Result<(), Error> {
        Ok(())
    }

    fn stop(&mut self, _context: &TargetContext) -> Result<(), Error> {
        Ok(())
    }
}
