//! A host without libtorch: this test binary, started again as a host process. The model's name
//! selects its behaviour.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use headroom_model_protocol::{
    Datatype, DeniedAction, Description, Failure, FailureKind, Frame, FrameDecoder, HostReply,
    HostRequest, LoadedModel, Memory, OUTPUTS_MAX, Sandbox, TensorLocation, TensorMeta, Trimmed,
    encode_frame, fds,
};
use nix::sys::signal::{Signal, raise};

/// Set in the process that acts as a host.
const ACTS: &str = "HEADROOM_TEST_HOST";

pub(super) const MIB: u64 = 1 << 20;

/// Bytes that each process reports at first.
pub(super) const AT_FIRST: u64 = 100 * MIB;

/// Grows by 1 MiB with each call.
pub(super) const LEAKS: &str = "leaks";
/// Reports 600 MiB from its third call on.
pub(super) const OVERGROWS: &str = "overgrows";
/// Is killed at its first call.
pub(super) const DIES: &str = "dies";
/// Its process is killed while it loads.
pub(super) const DIES_EARLY: &str = "dies-early";
/// Leaks, and the second of its processes never becomes ready.
pub(super) const LOADS_LATE: &str = "loads-late";
/// Never answers a call.
pub(super) const STALLS: &str = "stalls";

/// Sends replies that nothing asked for, of the kind that follows, before its first answer.
pub(super) const SENDS: &str = "sends-";
/// Sends the answer to a ping while it loads.
pub(super) const PONGS_EARLY: &str = "pongs-early";
/// Sends bytes beside what it says of its sandbox.
pub(super) const BYTES_EARLY: &str = "bytes-early";

/// Reports all memory there could be.
pub(super) const BOASTS: &str = "boasts";

/// What models that begin with [`SENDS`] send.
pub(super) const UNASKED: [&str; 14] = [
    "pongs",
    "trims",
    "reports",
    "confined",
    "ready",
    "start-failed",
    "described",
    "output-of-another",
    "failure-of-another",
    "size-of-another",
    "two-sizes",
    "impossible-size",
    "too-many-outputs",
    "bytes-beside",
];

/// Replies of one kind of [`UNASKED`], more than the server may have asked for while it awaits the answer to request `id`.
fn unasked(kind: &str, id: u64) -> Vec<HostReply> {
    let failure = Failure {
        kind: FailureKind::Internal,
        message: String::new(),
    };
    let memory = Memory {
        pss: AT_FIRST,
        anonymous: AT_FIRST,
    };
    let size = |id, bytes| HostReply::OutputSize { id, bytes };
    let (reply, count) = match kind {
        "pongs" => (
            HostReply::Pong {
                anonymous: AT_FIRST,
            },
            10_000,
        ),
        "trims" => {
            let trimmed = Trimmed {
                before: AT_FIRST,
                after: AT_FIRST,
                took_us: 1,
            };
            (HostReply::Trimmed(trimmed), 2)
        }
        "reports" => {
            let action = DeniedAction::ALL[0];
            (HostReply::Denied { action, count: 1 }, 10_000)
        }
        "confined" => (HostReply::Confined(Sandbox::default()), 1),
        "ready" => (ready(memory), 1),
        "start-failed" => (HostReply::StartFailed(failure), 1),
        "described" => (HostReply::Described(Description::default()), 1),
        "output-of-another" => (output(id + 1), 1),
        "too-many-outputs" => {
            let output = TensorMeta {
                name: String::new(),
                datatype: Datatype::Fp32,
                shape: vec![0],
                length: 0,
                location: TensorLocation::Inline(0),
            };
            let outputs = vec![output; OUTPUTS_MAX + 1];
            (output_of(id, outputs), 1)
        }
        "bytes-beside" => {
            let failure = Failure {
                kind: FailureKind::Model,
                message: "beside".to_owned(),
            };
            (HostReply::Failed { id, failure }, 1)
        }
        "failure-of-another" => (
            HostReply::Failed {
                id: id + 1,
                failure,
            },
            1,
        ),
        "size-of-another" => (size(id + 1, MIB), 1),
        "two-sizes" => (size(id, MIB), 2),
        "impossible-size" => (size(id, u64::MAX / 2), 1),
        _ => return Vec::new(),
    };
    vec![reply; count]
}

fn ready(memory: Memory) -> HostReply {
    HostReply::Ready(LoadedModel {
        description: Description::default(),
        has_reset_states: true,
        memory,
    })
}

fn output(id: u64) -> HostReply {
    output_of(id, Vec::new())
}

fn output_of(id: u64, outputs: Vec<TensorMeta>) -> HostReply {
    HostReply::Output {
        id,
        outputs,
        input_us: 0,
        // Shows the test which process answered.
        forward_us: u64::from(std::process::id()),
    }
}

/// A program that acts as a model host, in `folder`.
pub(super) fn program(folder: &Path) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n{ACTS}=1 exec setpriv --pdeathsig KILL -- \
         '{}' --exact model::tests::fake_host::act_as_host --nocapture\n",
        test.display()
    );
    let program = folder.join("host");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// Not a test: the program runs this.
#[test]
fn act_as_host() {
    if std::env::var_os(ACTS).is_none() {
        return;
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    FakeHost {
        socket: socket.into(),
        model: String::new(),
        calls: 0,
    }
    .run();
}

struct FakeHost {
    socket: UnixStream,
    model: String,
    calls: u64,
}

impl FakeHost {
    fn run(&mut self) {
        self.socket.set_nonblocking(false).unwrap();
        let mut decoder = FrameDecoder::default();
        let mut chunk = [0; 4096];
        let mut descriptors = Vec::new();
        loop {
            while let Some(Frame { header, .. }) = decoder.next_frame().unwrap() {
                if header == HostRequest::Stop {
                    return;
                }
                if let Some(file) = descriptors.first() {
                    self.model = model_of(file);
                    descriptors.clear();
                }
                for reply in self.answer(header) {
                    let payload: &[u8] = match &reply {
                        HostReply::Failed { failure, .. } => failure.message.as_bytes(),
                        HostReply::Confined(_) if self.model == BYTES_EARLY => b"beside",
                        _ => &[],
                    };
                    let frame = encode_frame(&reply, payload).unwrap();
                    // The server closes the socket at a reply that it did not ask for.
                    if self.socket.write_all(&frame).is_err() {
                        return;
                    }
                }
            }
            match fds::receive_with_fds(&self.socket, &mut chunk, &mut descriptors) {
                Ok(0) | Err(_) => return,
                Ok(read) => decoder.push(&chunk[..read]),
            }
        }
    }

    fn answer(&mut self, request: HostRequest) -> Vec<HostReply> {
        let memory = self.memory();
        let mut replies = Vec::new();
        if self.model == BYTES_EARLY {
            replies.push(HostReply::Confined(Sandbox::default()));
        }
        let reply = match request {
            HostRequest::Start(start) => {
                if self.model == LOADS_LATE && count_starts(&start.path) == 2 {
                    wait_for_ever();
                }
                if self.model == DIES_EARLY {
                    raise(Signal::SIGKILL).unwrap();
                }
                if self.model == PONGS_EARLY {
                    replies = unasked("pongs", 0);
                }
                ready(self.memory())
            }
            HostRequest::Infer(infer) => {
                if let Some(kind) = self.model.strip_prefix(SENDS) {
                    replies = unasked(kind, infer.id);
                    if kind == "too-many-outputs" {
                        return replies;
                    }
                }
                match self.model.as_str() {
                    DIES => raise(Signal::SIGKILL).unwrap(),
                    STALLS => wait_for_ever(),
                    _ => {}
                }
                self.calls += 1;
                output(infer.id)
            }
            HostRequest::Trim => HostReply::Trimmed(Trimmed {
                before: memory.anonymous.saturating_add(MIB),
                after: memory.anonymous,
                took_us: 1,
            }),
            HostRequest::Ping => HostReply::Pong {
                anonymous: memory.anonymous,
            },
            HostRequest::Describe { .. } => HostReply::Described(Description::default()),
            HostRequest::Outputs { .. } | HostRequest::BoundMemory { .. } | HostRequest::Stop => {
                return replies;
            }
        };
        replies.push(reply);
        replies
    }

    fn memory(&self) -> Memory {
        let grown = match self.model.as_str() {
            LEAKS | LOADS_LATE => self.calls * MIB,
            BOASTS => u64::MAX - AT_FIRST,
            OVERGROWS if self.calls >= 3 => 500 * MIB,
            _ => 0,
        };
        let bytes = AT_FIRST + grown;
        Memory {
            pss: bytes,
            anonymous: bytes,
        }
    }
}

/// The model whose file this is.
fn model_of(file: &OwnedFd) -> String {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = std::fs::read_link(link).unwrap();
    let model = path.ancestors().nth(2).and_then(Path::file_name);
    model.unwrap().to_str().unwrap().to_owned()
}

/// Reads the socket no more, so that pings have no answer.
fn wait_for_ever() {
    loop {
        std::thread::park();
    }
}

/// How many processes were asked to load the model at `path`, this one included.
fn count_starts(path: &Path) -> usize {
    let mut starts = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path.with_file_name("starts"))
        .unwrap();
    starts.write_all(b"x").unwrap();
    usize::try_from(starts.metadata().unwrap().len()).unwrap()
}
