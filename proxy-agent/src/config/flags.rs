//! kube-proxy's flags, made from the table.

use clap::builder::ArgAction;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::table::{Action, Form, Place, Row, TABLE, apply};
use super::{ConfigError, Draft};

/// What was given of kube-proxy's flags, in the order of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeProxyFlags {
    given: Vec<(&'static str, String)>,
}

impl KubeProxyFlags {
    /// Flags and their values, in any order. For tests and tools.
    pub fn of(given: &[(&str, &str)]) -> Self {
        let value = |flag: &str| given.iter().find(|(name, _)| *name == flag).map(|(_, value)| (*value).to_owned());
        Self { given: rows().filter_map(|row| Some((row.flag, value(row.flag)?))).collect() }
    }

    /// All of them.
    pub(super) fn read(&self, draft: &mut Draft) -> Result<(), ConfigError> {
        for (flag, text) in &self.given {
            self.read_one(draft, flag, text)?;
        }
        Ok(())
    }

    /// Those that count beside a file. The others are named in the warning.
    pub(super) fn override_file(&self, draft: &mut Draft) -> Result<(), ConfigError> {
        for (flag, text) in &self.given {
            if matches!(*flag, "hostname-override" | "init-only" | "v" | "logging-format") {
                self.read_one(draft, flag, text)?;
            } else {
                draft.settings.not_applicable.push(format!("--{flag} (there is --config)"));
            }
        }
        Ok(())
    }

    fn read_one(&self, draft: &mut Draft, flag: &str, text: &str) -> Result<(), ConfigError> {
        let name = format!("--{flag}");
        for row in rows().filter(|row| row.flag == flag) {
            let place = Place { name: &name, is_flag: true };
            apply(row, draft, &form(row).of_flag(text), place).map_err(|message| ConfigError::at(&name, message))?;
        }
        Ok(())
    }
}

fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(|row| !row.flag.is_empty())
}

fn form(row: &Row) -> Form {
    match row.action {
        Action::Use(form, _) | Action::Ignore(form, _) => form,
    }
}

impl Args for KubeProxyFlags {
    fn augment_args(mut command: Command) -> Command {
        for row in rows() {
            let mut arg = Arg::new(row.flag)
                .long(row.flag)
                .action(ArgAction::Set)
                .allow_hyphen_values(true)
                .help_heading("kube-proxy's flags, with kube-proxy's meaning");
            // The last one counts, as with kube-proxy.
            arg = arg.overrides_with(row.flag);
            match form(row) {
                Form::Switch => arg = arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                Form::Verbosity => {
                    let alone = arg.short('v').visible_alias("verbose").allow_hyphen_values(false);
                    arg = alone.num_args(0..=1).default_missing_value("");
                }
                _ => {}
            }
            arg = match row.action {
                Action::Use(Form::Verbosity, _) => arg.value_name("LEVEL").help(
                    "Say more: from 4 on (or -v) what the agent and the kernel programs decide, from 6 on (or -vv) \
                     everything. RUST_LOG overrides it; logging.verbosity in --config",
                ),
                Action::Use(..) if row.field.is_empty() => arg.hide(true),
                Action::Use(..) => arg.value_name("VALUE").help(format!("{} in --config", row.field)),
                // Accepted, so that a command line of kube-proxy works as it is.
                Action::Ignore(..) => arg.hide(true),
            };
            command = command.arg(arg);
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KubeProxyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |flag: &'static str| Some((flag, matches.get_one::<String>(flag)?.clone()));
        Ok(Self { given: rows().filter_map(|row| value(row.flag)).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
