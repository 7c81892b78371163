//! From words on the command line to suites and filters.

use anyhow::{Result, bail};

use super::suite::Suite;

/// A suite, and which part of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Selection {
    pub suite: Suite,
    /// Parts of test names, any of which is enough; all tests if there are none.
    pub filters: Vec<String>,
}

impl Selection {
    fn whole(suite: Suite) -> Self {
        Self { suite, filters: Vec::new() }
    }

    /// For the heading.
    pub fn title(&self) -> String {
        let Self { suite, filters } = self;
        if filters.is_empty() { suite.name().to_owned() } else { format!("{}: {}", suite.name(), filters.join(", ")) }
    }

    /// Whether a check of that name is wanted.
    pub fn takes(&self, check: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| check.contains(filter.as_str()))
    }
}

/// The suites that the words name, in the order they run, each once.
pub fn parse(words: &[String]) -> Result<Vec<Selection>> {
    if words.is_empty() {
        return Ok(Suite::ALL.map(Selection::whole).into());
    }
    // One entry for each mention of a suite.
    let mut mentions: Vec<Selection> = Vec::new();
    for word in words {
        let (name, filter) = word.split_once('/').map_or((word.as_str(), None), |(name, rest)| (name, Some(rest)));
        match (suite(name), mentions.last_mut()) {
            (Some(suite), _) => {
                let filters = filter.filter(|filter| !filter.is_empty()).map(str::to_owned);
                mentions.push(Selection { suite, filters: filters.into_iter().collect() });
            }
            (None, Some(mention)) => mention.filters.push(word.clone()),
            (None, None) => {
                let names = Suite::ALL.map(Suite::name).join(", ");
                bail!("there is no suite `{name}`; there are: {names} (`SUITE/FILTER` for a part of one)");
            }
        }
    }
    Ok(Suite::ALL.into_iter().filter_map(|suite| unite(suite, &mentions)).collect())
}

fn suite(name: &str) -> Option<Suite> {
    Suite::ALL.into_iter().find(|suite| suite.name() == name)
}

/// All that was said of a suite. Once mentioned without a filter, it is wanted whole.
fn unite(suite: Suite, mentions: &[Selection]) -> Option<Selection> {
    let of_suite: Vec<_> = mentions.iter().filter(|mention| mention.suite == suite).collect();
    if of_suite.is_empty() {
        return None;
    }
    if of_suite.iter().any(|mention| mention.filters.is_empty()) {
        return Some(Selection::whole(suite));
    }
    let filters = of_suite.iter().flat_map(|mention| mention.filters.iter().cloned()).collect();
    Some(Selection { suite, filters })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Vec<(Suite, String)>> {
        let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        let selections = parse(&words)?;
        Ok(selections.into_iter().map(|Selection { suite, filters }| (suite, filters.join(" "))).collect())
    }

    fn expect(words: &str, wanted: &[(Suite, &str)]) {
        let wanted: Vec<_> = wanted.iter().map(|(suite, filters)| (*suite, (*filters).to_owned())).collect();
        assert_eq!(parsed(words).expect("the words make sense"), wanted, "{words}");
    }

    #[test]
    fn no_word_is_every_suite() {
        expect("", &Suite::ALL.map(|suite| (suite, "")));
    }

    #[test]
    fn suites_run_in_their_own_order_and_once() {
        expect("lab unit lab", &[(Suite::Unit, ""), (Suite::Lab, "")]);
    }

    #[test]
    fn a_filter_comes_after_a_slash_or_as_a_word() {
        expect("lab/nodeport", &[(Suite::Lab, "nodeport")]);
        expect("lab nodeport udp unit", &[(Suite::Unit, ""), (Suite::Lab, "nodeport udp")]);
        expect("lab/nodeport udp lab/unit", &[(Suite::Lab, "nodeport udp unit")]);
        expect("lab/", &[(Suite::Lab, "")]);
        expect("unit plan::op/x", &[(Suite::Unit, "plan::op/x")]);
    }

    #[test]
    fn once_without_a_filter_is_the_whole_suite() {
        expect("lab/nodeport lab", &[(Suite::Lab, "")]);
    }

    #[test]
    fn a_misspelt_suite_is_told_with_those_that_are() {
        let error = parsed("labs").expect_err("no such suite").to_string();
        assert!(error.contains("`labs`") && error.contains("bench, deploy, conformance, lab"), "{error}");
    }
}
