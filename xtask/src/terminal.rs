//! One line on a terminal, painted over and over, to show that something goes on.

use std::io::{IsTerminal as _, Write as _};

/// The widest that a painted line gets: one that wraps could not be painted over.
const WIDTH: usize = 78;

/// Whether standard output is a terminal. Nothing is to be painted elsewhere.
pub fn is_there() -> bool {
    std::io::stdout().is_terminal()
}

/// Paints a line in place of the one painted before.
pub fn paint(line: &str) {
    print!("\r\x1b[K{}", printable(line));
    // A line that could not be painted is no reason to fail.
    let _ = std::io::stdout().flush();
}

/// Takes the painted line away.
pub fn clear() {
    paint("");
}

/// What of a line may be painted: its beginning, without anything that moves the cursor or changes colours.
pub fn printable(line: &str) -> String {
    // Of a line that painted over itself, its last state.
    let line = line.trim_end().rsplit('\r').next().unwrap_or_default();
    let mut pieces = line.split('\x1b');
    let before = pieces.next().unwrap_or_default().to_owned();
    // An escape sequence ends with its first letter.
    let after = pieces.filter_map(|piece| piece.split_once(|char: char| char.is_ascii_alphabetic()));
    let text: String = std::iter::once(before).chain(after.map(|(_, text)| text.to_owned())).collect();
    text.chars().filter(|char| !char.is_control()).take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_painted_line_is_short_and_moves_no_cursor() {
        assert_eq!(printable("10%\r20%"), "20%");
        assert_eq!(printable("10%\r20%\r\n"), "20%");
        assert_eq!(printable("\x1b[1m\x1b[31mred\x1b[0m and\tplain\x1b[K"), "red andplain");
        assert_eq!(printable(&"x".repeat(200)).len(), WIDTH);
    }
}
