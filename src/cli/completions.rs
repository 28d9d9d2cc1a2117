//! `headroom completions` and `headroom man`: files for shells and for `man`, made from the command line's
//! own definition.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::output::{print, write};
use super::{Cli, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Write the pages of all commands into this folder, instead of the main page to standard output
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Writes the completions of a shell to standard output.
pub(super) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "headroom", &mut script);
    write(&script).map(drop)
}

/// Writes the manual.
pub(super) fn man(args: &ManArgs) -> Result<(), Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.dir else {
        return write(&page(command).map_err(Failure::Output)?).map(drop);
    };
    fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
    let mut pages = Vec::new();
    collect(command, &mut pages);
    let mut names = String::new();
    for page_of in pages {
        let path = folder.join(format!("{}.1", name(&page_of)));
        let written = page(page_of).and_then(|page| fs::write(&path, page));
        written.map_err(|source| failed(&path, source))?;
        names.push_str(&format!("{}\n", path.display()));
    }
    print(&names)
}

fn failed(path: &Path, source: io::Error) -> Failure {
    let path = path.to_owned();
    Failure::File { path, source }
}

/// `command` and all commands below it.
fn collect(command: Command, pages: &mut Vec<Command>) {
    for below in command.get_subcommands() {
        collect(below.clone(), pages);
    }
    pages.push(command);
}

/// The name of the page of a command, such as `headroom-models-load`.
fn name(command: &Command) -> String {
    let name = command.get_display_name();
    name.unwrap_or_else(|| command.get_name()).to_owned()
}

/// One page. Examples are not filled, as they would be in the section that clap_mangen makes of them.
fn page(command: Command) -> io::Result<Vec<u8>> {
    let after = command.get_after_long_help().or(command.get_after_help());
    let after = after.map(ToString::to_string);
    let has_version = command.get_version().is_some();
    let man = Man::new(command);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_subcommands_section(&mut page)?;
    if let Some(after) = after {
        page.extend_from_slice(sections(&after).as_bytes());
    }
    if has_version {
        man.render_version_section(&mut page)?;
    }
    Ok(page)
}

/// The text after the help in the language of manuals. A line that ends with a colon is the title of a
/// section.
fn sections(text: &str) -> String {
    let mut roff = String::new();
    for line in text.lines() {
        let escaped = line.replace('\\', "\\e").replace('-', "\\-");
        match escaped
            .strip_suffix(':')
            .filter(|title| !title.starts_with(' '))
        {
            Some(title) if roff.is_empty() => {
                roff.push_str(&format!(".SH {}\n.nf\n", title.to_uppercase()));
            }
            Some(title) => roff.push_str(&format!(".fi\n.SH {}\n.nf\n", title.to_uppercase())),
            None => roff.push_str(&format!("\\&{}\n", escaped.trim_start())),
        }
    }
    roff.push_str(".fi\n");
    roff
}
