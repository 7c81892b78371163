//! The commands that look into the pinned maps. They only read, and need no agent.

mod backends;
mod counters;
mod flows;
mod frontends;
mod names;

use std::io;

use anyhow::Result;

use crate::cli::LookArgs;
use crate::kernel::MapSet;
use crate::output;
use names::Names;

/// The maps of a command, and the names in them.
struct View {
    maps: MapSet,
    names: Names,
}

impl View {
    fn open(args: &LookArgs) -> Result<Self> {
        let maps = MapSet::open(&args.pins.path().maps())?;
        let names = Names::new(maps.names()?, args.namespace.as_deref(), args.name.as_deref());
        Ok(Self { maps, names })
    }
}

/// `proxy-agent frontends`.
///
/// # Errors
/// When the maps cannot be read or the output not be written.
pub fn frontends(args: &LookArgs) -> Result<()> {
    print(&frontends::list(&View::open(args)?)?, args)
}

/// `proxy-agent backends`.
///
/// # Errors
/// When the maps cannot be read or the output not be written.
pub fn backends(args: &LookArgs) -> Result<()> {
    print(&backends::list(&View::open(args)?)?, args)
}

/// `proxy-agent flows`.
///
/// # Errors
/// When the maps cannot be read or the output not be written.
pub fn flows(args: &LookArgs) -> Result<()> {
    print(&flows::list(&View::open(args)?)?, args)
}

/// `proxy-agent counters`.
///
/// # Errors
/// When the maps cannot be read or the output not be written.
pub fn counters(args: &LookArgs) -> Result<()> {
    let view = View::open(args)?;
    let counters = counters::Counters::read(&view)?;
    match args.output {
        output::Format::Json => Ok(output::print_json(&counters)?),
        output::Format::Table => {
            print(&counters.services, args)?;
            // Drops belong to no Service.
            if !view.names.is_filtered() {
                println!();
                print(&counters.drops, args)?;
            }
            Ok(())
        }
    }
}

fn print<T: output::Rows>(list: &T, args: &LookArgs) -> Result<()> {
    let result: io::Result<()> = output::print(list, args.output);
    Ok(result?)
}
