//! PyTorch models: archives that hold code or a graph, told apart by the names of their entries.
//!
//! Nothing is unpickled here or later: a pickle is a program. The model host has its own check of what it loads.

use super::{fault::ContentFault, kind::Kind};

/// What names show.
#[derive(Debug, Default)]
pub(super) struct Names {
    code: bool,
    pickle: bool,
    archive_format: bool,
    graph: bool,
    legacy_graph: bool,
}

impl Names {
    /// Takes the name of an entry. All entries stand in one folder, whose name is the writer's choice. Exported programs
    /// before PyTorch 2.8 have none.
    pub(super) fn add(&mut self, name: &[u8]) {
        self.add_path(name);
        let slash = name.iter().position(|byte| *byte == b'/');
        if let Some(slash) = slash {
            self.add_path(&name[slash + 1..]);
        }
    }

    fn add_path(&mut self, path: &[u8]) {
        match path {
            b"data.pkl" | b"constants.pkl" => self.pickle = true,
            b"archive_format" => self.archive_format = true,
            b"serialized_exported_program.json" => self.legacy_graph = true,
            _ => {
                self.code |= path.starts_with(b"code/") && path.ends_with(b".py");
                self.graph |= path.starts_with(b"models/") && path.ends_with(b".json");
                // Compiled by AOTInductor.
                self.graph |= path.starts_with(b"data/aotinductor/");
            }
        }
    }

    pub(super) fn finish(&self, kind: Kind) -> Result<(), ContentFault> {
        let script = self.code && self.pickle;
        let exported = self.legacy_graph || (self.archive_format && self.graph);
        let problem = match kind {
            Kind::TorchScript if script => return Ok(()),
            Kind::TorchScript if exported => {
                "the file is an exported program, not TorchScript: give it the extension .pt2"
            }
            Kind::TorchScript if self.pickle => PICKLE,
            Kind::TorchScript => {
                "the archive holds no TorchScript code: save the model with torch.jit.save"
            }
            Kind::ExportedProgram if exported => return Ok(()),
            Kind::ExportedProgram if script => {
                "the file is TorchScript, not an exported program: give it the extension .pt"
            }
            Kind::ExportedProgram => {
                "the archive holds no exported program: save the model with torch.export.save"
            }
            _ => return Ok(()),
        };
        Err(ContentFault::Model(problem))
    }
}

/// What to say to those who saved a model with `torch.save`.
pub(super) const PICKLE: &str = "the file is a pickle (torch.save), which can run any code when it is loaded: export \
                                 the model as TorchScript with torch.jit.save";
