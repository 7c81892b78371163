//! How the demo speaks: chapters, facts, bars; colours where somebody looks.

use std::io::IsTerminal as _;

use anyhow::{Result, bail};

/// Prints a line. A reader who has closed the pipe is no reason to fail.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}
pub(super) use say;

/// Begins a chapter: what is shown, and why one would care.
pub fn chapter(title: &str, text: &str) {
    say!("\n{}", bold(title));
    for line in text.lines() {
        say!("  {}", line.trim());
    }
}

/// Something that was seen and checked.
pub fn fact(text: &str) {
    say!("  {} {text}", green("✓"));
}

/// Ends the demo unless it is so.
pub fn verify(is_so: bool, else_what: impl FnOnce() -> String) -> Result<()> {
    if is_so {
        return Ok(());
    }
    bail!("{}", else_what())
}

/// A row of a bar chart.
pub fn bar(name: &str, count: usize, of: usize) {
    let width = (count * 40).checked_div(of).unwrap_or_default();
    say!("    {name:<6} {} {count}", "█".repeat(width));
}

/// Emphasised.
pub fn bold(text: &str) -> String {
    paint("1", text)
}

/// Good.
pub fn green(text: &str) -> String {
    paint("32", text)
}

/// Bad.
pub fn red(text: &str) -> String {
    paint("31", text)
}

/// Beside the point.
pub fn dim(text: &str) -> String {
    paint("2", text)
}

fn paint(code: &str, text: &str) -> String {
    let is_wanted = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if is_wanted { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
