//! A minimal owner: it starts hosts and zygotes as the server does, with the real protocol and blocking sockets.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    marker::PhantomData,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
};

use headroom_model_protocol::*;
pub(crate) use headroom_test_support::models::sample_file;
pub(crate) use headroom_test_support::wait::DEADLINE;
use headroom_test_support::{
    child::{self, Child},
    wait::wait_until,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Serialize, de::DeserializeOwned};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom-model-host");

/// The start of the sample model, which takes chunks of 512 samples at 16 kHz.
pub(crate) fn sample_start() -> Start {
    let inputs = vec![
        InputKind::Tensor {
            datatype: Datatype::Fp32,
            shape: vec![1, 512],
        },
        InputKind::Scalar {
            kind: ScalarKind::Int,
            constant: Some(Scalar::Int(16_000)),
        },
    ];
    Start {
        warm_up: true,
        stateful: true,
        inputs,
        ..Start::new("silero-vad", sample_file())
    }
}

/// A socket that carries frames.
pub(crate) struct FrameSocket<R> {
    pub(crate) stream: UnixStream,
    decoder: FrameDecoder,
    message: PhantomData<R>,
}

impl<R: DeserializeOwned> FrameSocket<R> {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream,
            decoder: FrameDecoder::default(),
            message: PhantomData,
        }
    }

    pub(crate) fn send<T: Serialize>(&mut self, message: &T, payload: &[u8]) {
        self.stream
            .write_all(&encode_frame(message, payload).unwrap())
            .unwrap();
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) fn receive(&mut self) -> Option<Frame<R>> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(bytes) => self.decoder.push(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply: {error}"),
            }
        }
    }
}

/// A tensor with its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorData {
    pub(crate) name: String,
    pub(crate) datatype: Datatype,
    pub(crate) shape: Vec<i64>,
    pub(crate) bytes: Vec<u8>,
}

impl TensorData {
    pub(crate) fn new(datatype: Datatype, shape: &[i64], bytes: Vec<u8>) -> Self {
        Self {
            name: "x".into(),
            datatype,
            shape: shape.to_vec(),
            bytes,
        }
    }

    pub(crate) fn floats(shape: &[i64], floats: &[f32]) -> Self {
        Self::new(
            Datatype::Fp32,
            shape,
            floats
                .iter()
                .flat_map(|float| float.to_le_bytes())
                .collect(),
        )
    }

    pub(crate) fn to_floats(&self) -> Vec<f32> {
        assert_eq!(self.datatype, Datatype::Fp32);
        self.bytes
            .as_chunks()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect()
    }
}

pub(crate) enum Arg<'a> {
    Tensor(&'a TensorData),
    /// The parts of the argument with this name.
    Group(&'a str, &'a [TensorData]),
    Scalar(Scalar),
}

pub(crate) type Outputs = Result<Vec<TensorData>, (FailureKind, String)>;

/// The owner's end of one host.
pub(crate) struct Host {
    pub(crate) socket: FrameSocket<HostReply>,
    requests: Arena,
    pub(crate) replies: Arena,
    /// How the process says that it is confined.
    pub(crate) sandbox: Sandbox,
    id: u64,
    /// The process, if the test started it and not the zygote.
    pub(crate) process: Option<Process>,
}

impl Host {
    /// Starts `--serve` and has it load a model.
    pub(crate) fn serve(start: Start) -> (Self, HostReply) {
        let (owner_end, process_end) = UnixStream::pair().unwrap();
        let mut serve = child::command(BINARY);
        serve
            .arg("--serve")
            .stdin(Stdio::from(OwnedFd::from(process_end)));
        let process = child::start(&mut serve).unwrap();
        let mut host = Self::over(owner_end);
        host.process = Some(Process(process));
        let reply = host.start(start);
        (host, reply)
    }

    /// As [`serve`](Self::serve), for a model that loads.
    pub(crate) fn ready(start: Start) -> (Self, LoadedModel) {
        match Self::serve(start) {
            (host, HostReply::Ready(ready)) => (host, ready),
            (_, reply) => panic!("not ready: {reply:?}"),
        }
    }

    pub(crate) fn over(socket: UnixStream) -> Self {
        let requests = Arena::create("test-request").unwrap();
        let replies = Arena::create("test-reply").unwrap();
        Self {
            socket: FrameSocket::new(socket),
            requests,
            replies,
            sandbox: Sandbox::default(),
            id: 0,
            process: None,
        }
    }

    pub(crate) fn start(&mut self, start: Start) -> HostReply {
        self.send_start(start);
        self.reply()
    }

    pub(crate) fn send_start(&mut self, start: Start) {
        let file = File::open(&start.path).unwrap();
        let frame = encode_frame(&HostRequest::Start(start), &[]).unwrap();
        let descriptors = [file.as_fd(), self.requests.as_fd(), self.replies.as_fd()];
        fds::send_all_with_fds(&self.socket.stream, &frame, &descriptors).unwrap();
    }

    /// The next reply that is not about the sandbox.
    pub(crate) fn reply(&mut self) -> HostReply {
        loop {
            let frame = self.socket.receive().expect("the host closed the socket");
            match frame.header {
                HostReply::Denied { .. } => {}
                HostReply::Confined(sandbox) => self.sandbox = sandbox,
                reply => return reply,
            }
        }
    }

    pub(crate) fn send_infer(
        &mut self,
        arguments: &[Arg<'_>],
        wanted: &[&str],
        reset_before: bool,
    ) -> u64 {
        self.id += 1;
        let id = self.id;
        let mut frame = TensorWriter::new(&self.requests);
        let mut meta = |data: &TensorData| TensorMeta {
            name: data.name.clone(),
            datatype: data.datatype,
            shape: data.shape.clone(),
            length: data.bytes.len() as u64,
            location: frame.write(&data.bytes).unwrap(),
        };
        let inputs = arguments.iter().map(|argument| match argument {
            Arg::Tensor(data) => Input::Tensor(meta(data)),
            Arg::Group(name, parts) => Input::Group {
                name: name.to_string(),
                tensors: parts.iter().map(&mut meta).collect(),
            },
            Arg::Scalar(value) => Input::Scalar(*value),
        });
        let inputs = inputs.collect();
        let payload = frame.into_payload();
        let wanted = wanted.iter().map(|name| name.to_string()).collect();
        self.socket.send(
            &HostRequest::Infer(Infer {
                id,
                inputs,
                wanted,
                reset_before,
            }),
            &payload,
        );
        id
    }

    /// The answer to a request. Allows outputs of any size.
    pub(crate) fn receive_infer(&mut self, expected: u64) -> Outputs {
        let frame = self.socket.receive().expect("the host closed the socket");
        match frame.header {
            HostReply::OutputSize { id, .. } => {
                assert_eq!(id, expected);
                let request = HostRequest::Outputs { id, send: true };
                self.socket.send(&request, &[]);
                self.receive_infer(expected)
            }
            HostReply::Output { id, outputs, .. } => {
                assert_eq!(id, expected);
                let reader = TensorReader::new(&frame.payload, &self.replies);
                let read = |meta: TensorMeta| TensorData {
                    bytes: reader.read(&meta).unwrap(),
                    name: meta.name,
                    datatype: meta.datatype,
                    shape: meta.shape,
                };
                let outputs = outputs.into_iter().map(read).collect();
                self.replies.release().unwrap();
                Ok(outputs)
            }
            HostReply::Failed { id, failure } => {
                assert_eq!(id, expected);
                Err((failure.kind, failure.message))
            }
            other => panic!("not an answer: {other:?}"),
        }
    }

    pub(crate) fn infer(&mut self, arguments: &[Arg<'_>]) -> Outputs {
        let id = self.send_infer(arguments, &[], false);
        self.receive_infer(id)
    }

    /// Runs a model with one input and one output.
    pub(crate) fn run(&mut self, data: &TensorData) -> TensorData {
        let mut outputs = self.infer(&[Arg::Tensor(data)]).unwrap();
        assert_eq!(outputs.len(), 1);
        outputs.remove(0)
    }

    /// Runs the sample model on one chunk of samples.
    pub(crate) fn speech_probability(&mut self, chunk: &[f32], reset_before: bool) -> f32 {
        let x = TensorData::floats(&[1, 512], chunk);
        let id = self.send_infer(
            &[Arg::Tensor(&x), Arg::Scalar(Scalar::Int(16_000))],
            &[],
            reset_before,
        );
        self.receive_infer(id).unwrap()[0].to_floats()[0]
    }
}

/// A process that is killed at the end of the test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        let status = self.0.wait_within(DEADLINE).unwrap();
        status.expect("the process ends")
    }
}

/// Runs the binary to its end.
pub(crate) fn run(arguments: &[impl AsRef<OsStr>]) -> Output {
    child::output(child::command(BINARY).args(arguments), DEADLINE).unwrap()
}

/// Runs `--check`. Returns the process's output and its report.
pub(crate) fn check(path: &Path) -> (Output, serde_json::Value) {
    let output = run(&["--check".as_ref(), path.as_os_str()]);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{}: {error}: {output:?}", path.display()));
    (output, report)
}

/// The server's end of a zygote.
pub(crate) struct Zygote {
    pub(crate) socket: FrameSocket<ZygoteReply>,
    pub(crate) process: Process,
    pub(crate) pid: i32,
    /// Replies that were received while another was expected.
    waiting: VecDeque<ZygoteReply>,
    id: u64,
}

impl Zygote {
    pub(crate) fn spawn() -> Self {
        Self::spawn_with(&[])
    }

    /// A zygote with these variables in its environment.
    pub(crate) fn spawn_with(variables: &[(&str, &OsStr)]) -> Self {
        let (owner_end, process_end) = UnixStream::pair().unwrap();
        let mut zygote = child::command(BINARY);
        zygote
            .arg("--zygote")
            .envs(variables.iter().copied())
            .stdin(Stdio::from(OwnedFd::from(process_end)));
        let process = child::start(&mut zygote).unwrap();
        let mut socket = FrameSocket::new(owner_end);
        let ready = socket.receive().expect("the zygote closed the socket");
        assert_eq!(ready.header, ZygoteReply::Ready);
        let pid = i32::try_from(process.id()).unwrap();
        Self {
            socket,
            process: Process(process),
            pid,
            waiting: VecDeque::new(),
            id: 0,
        }
    }

    /// Forks a host. Returns it, its process id, and the reading end of its log.
    pub(crate) fn fork(&mut self) -> (Host, i32, File) {
        let (owner_end, process_end) = UnixStream::pair().unwrap();
        let (log, log_writer) = io::pipe().unwrap();
        self.id += 1;
        let frame = encode_frame(&ForkRequest { id: self.id }, &[]).unwrap();
        fds::send_all_with_fds(
            &self.socket.stream,
            &frame,
            &[process_end.as_fd(), log_writer.as_fd()],
        )
        .unwrap();
        let expected = self.id;
        let reply =
            self.reply(|reply| matches!(reply, ZygoteReply::Forked { id, .. } if *id == expected));
        let ZygoteReply::Forked { pid, .. } = reply else {
            unreachable!()
        };
        (Host::over(owner_end), pid, File::from(OwnedFd::from(log)))
    }

    /// Waits for the report of a host's exit.
    pub(crate) fn exit_of(&mut self, wanted: i32) -> ExitStatus {
        let reply =
            self.reply(|reply| matches!(reply, ZygoteReply::Exited { pid, .. } if *pid == wanted));
        let ZygoteReply::Exited { status, .. } = reply else {
            unreachable!()
        };
        ExitStatus::from_raw(status)
    }

    fn reply(&mut self, is_wanted: impl Fn(&ZygoteReply) -> bool) -> ZygoteReply {
        if let Some(at) = self.waiting.iter().position(&is_wanted) {
            return self.waiting.remove(at).unwrap();
        }
        loop {
            let reply = self
                .socket
                .receive()
                .expect("the zygote closed the socket")
                .header;
            if is_wanted(&reply) {
                return reply;
            }
            self.waiting.push_back(reply);
        }
    }
}

pub(crate) fn wait_for(description: &str, condition: impl Fn() -> bool) {
    wait_until(DEADLINE, description, condition);
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// A generated model in a folder of its own.
pub(crate) fn model(write: impl FnOnce(&Path) -> io::Result<()>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    write(&path).unwrap();
    (folder, path)
}

/// Samples of a tone with rising volume, and noise.
pub(crate) fn chunk(index: usize) -> Vec<f32> {
    let sample = |at: usize| {
        let time = (index * 512 + at) as f32 / 16_000.0;
        let noise =
            ((index * 512 + at) as u32).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 - 0.5;
        (time * 220.0 * std::f32::consts::TAU).sin() * (time * 3.0).sin() * 0.4 + noise * 0.05
    };
    (0..512).map(sample).collect()
}
