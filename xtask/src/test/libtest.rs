//! What test binaries print about themselves.

use super::tally::Tally;

/// Counts the tests of all binaries in some output, by the line at the end of each, which begins `test result:`.
pub fn tally(output: &str) -> Tally {
    output.lines().filter_map(result_line).fold(Tally::default(), Tally::plus)
}

/// Reads `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s`.
fn result_line(line: &str) -> Option<Tally> {
    // Something printed without a newline may stand before it.
    let (_, counts) = line.split_once("test result: ")?;
    let (_, counts) = counts.split_once(". ")?;
    let mut tally = Tally::default();
    for count in counts.split(';') {
        let Some((number, what)) = count.trim().split_once(' ') else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        match what {
            "passed" => tally.passed = number,
            "failed" => tally.failed = number,
            "ignored" => tally.skipped = number,
            _ => {}
        }
    }
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binaries_are_added_up() {
        let output = "\
     Running unittests src/lib.rs (target/debug/deps/a)

running 2 tests
test one ... ok
test two ... ignored

test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s

running 3 tests
12 ..... \u{1b}[31mtest result: FAILED\u{1b}[0m. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s
";
        assert_eq!(tally(output), Tally { passed: 3, failed: 1, skipped: 1 });
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(tally("test result\ntest result: what\n7 passed; 1 failed\n"), Tally::default());
    }
}
