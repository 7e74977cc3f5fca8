//! Parts of error messages: values of the file and proposals, all of bounded length.

/// Maximum characters of a value in a message.
const MAX_SHOWN: usize = 60;

/// Maximum number of names in a message.
const MAX_LISTED: usize = 10;

/// A value of the file in quotes: escaped, and cut where it is long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}

/// `a, b and c`; after ten, `and N more`. `none` if there are none.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names = names.into_iter();
    let mut shown: Vec<&str> = names.by_ref().take(MAX_LISTED).collect();
    let more = names.count();
    if more > 0 {
        return format!("{} and {more} more", shown.join(", "));
    }
    match shown.pop() {
        None => "none".to_owned(),
        Some(last) if shown.is_empty() => last.to_owned(),
        Some(last) => format!("{} and {last}", shown.join(", ")),
    }
}

/// The known name with the smallest distance from a name, if it is small enough for a typing error.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > MAX_SHOWN {
        return None;
    }
    let lower = name.to_lowercase().replace(['-', ' '], "_");
    known
        .iter()
        .map(|known| (distance(&lower, known), *known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).min(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// The Levenshtein distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_cut() {
        assert_eq!(quoted("a\"b\n"), r#""a\"b\n""#);
        assert_eq!(quoted(&"é".repeat(61)), format!("\"{}\"...", "é".repeat(60)));
    }

    #[test]
    fn lists_end_after_ten() {
        assert_eq!(listed([]), "none");
        assert_eq!(listed(["a"]), "a");
        assert_eq!(listed(["a", "b", "c"]), "a, b and c");
        assert_eq!(listed(["x"; 13]), format!("{}x and 3 more", "x, ".repeat(9)));
    }

    #[test]
    fn only_near_names_are_proposed() {
        let known = ["name", "kind", "idle_timeout", "endpoints"];
        for (name, expected) in [
            ("nmae", None),
            ("Name", Some("name")),
            ("nam", Some("name")),
            ("idle-timeout", Some("idle_timeout")),
            ("idle_timout", Some("idle_timeout")),
            ("endpoint", Some("endpoints")),
            ("zzz", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
    }
}
