//! The host: one model, one socket, two threads.
//!
//! The main thread loads and runs the model. The other thread reads the socket ([`crate::reader`]): it answers pings
//! at once, so that the server can tell a busy host from a dead one, queues work for the main thread, and ends the
//! process when the server closes the socket, also in the middle of a run. Replies are sent under a lock, one whole
//! frame at a time.

use std::{
    fs::File,
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::Instant,
};

use headroom_model_protocol::{
    Arena, FailureKind, Frame, HostReply, HostRequest, Infer, OUTPUTS_UNASKED_MAX, SandboxMode,
    Trimmed,
};

use crate::{
    archive::{Archive, Extent},
    failure::failure,
    frames::FrameReader,
    memory::{self, MemoryBound},
    model::{Model, micros},
    process::{self, ExitCode},
    reader::{Reader, Shared},
    sandbox,
};

/// Requests that wait for the main thread: at most one inference, one answer about outputs, one trim and one stop.
const QUEUE: usize = 4;

/// The reading thread's stack; its buffers are on the heap.
const READER_STACK: usize = 256 << 10;

/// Serves one model until the server stops it.
pub(crate) fn serve(socket: UnixStream) -> ExitCode {
    memory::limit_arenas();
    process::write_output_by_lines();
    try_serve(socket).unwrap_or_else(|error| {
        process::log(&format!("the host cannot start: {error}"));
        match error.kind() {
            io::ErrorKind::Other => ExitCode::Protocol,
            // The operating system failed.
            _ => ExitCode::Internal,
        }
    })
}

fn try_serve(socket: UnixStream) -> io::Result<ExitCode> {
    let mut frames = FrameReader::new(socket)?;
    let Some(frame) = frames.next()? else {
        // The server closed the socket before it said what to load.
        return Ok(ExitCode::Ok);
    };
    let start = match frame.header {
        HostRequest::Start(start) => start,
        HostRequest::Describe { sandbox, own_max } => {
            let [file] = frames.take_descriptors()?;
            MemoryBound::new(1).set(own_max);
            return describe(frames.socket, file.into(), sandbox);
        }
        _ => return Err(io::Error::other("the first request is not a start")),
    };
    let [file, requests, replies] = frames.take_descriptors()?;
    process::set_name(&format!("hr:{}", start.model));
    process::raise_oom_score();
    let bound = MemoryBound::new(start.threads);
    if let Some(own_max) = start.own_max {
        bound.set(own_max);
    }
    let file = File::from(file);
    // While there is one thread: later ones inherit what it may not do.
    let sandbox = sandbox::confine(start.sandbox, &file);
    let shared = Arc::new(Shared::new(frames.socket.try_clone()?));
    let (sender, queue) = sync_channel(QUEUE);
    let reader = Reader {
        frames,
        queue: sender,
        shared: Arc::clone(&shared),
    };
    thread::Builder::new()
        .name("hr-reader".to_owned())
        .stack_size(READER_STACK)
        .spawn(move || reader.run())?;
    let loaded = sandbox.and_then(|sandbox| {
        shared.reply(&HostReply::Confined(sandbox));
        Model::load(start, file)
    });
    shared.report_denials();
    Ok(match loaded {
        Ok(model) => {
            shared.reply(&HostReply::Ready(model.describe()));
            let worker = Worker {
                model,
                requests: requests.into(),
                replies: replies.into(),
                shared,
                bound,
                queue,
            };
            worker.run()
        }
        Err(failure) => {
            shared.reply(&HostReply::StartFailed(failure));
            ExitCode::Refused
        }
    })
}

/// Says what a file declares.
fn describe(socket: UnixStream, file: File, sandbox: SandboxMode) -> io::Result<ExitCode> {
    process::end_with_server(&socket)?;
    process::set_name("hr-describe");
    process::raise_oom_score();
    let shared = Shared::new(socket);
    let described = sandbox::confine(sandbox, &file).and_then(|sandbox| {
        shared.reply(&HostReply::Confined(sandbox));
        Ok(Archive::read(file, Extent::Code)?.signature.describe())
    });
    shared.report_denials();
    shared.reply(&match described {
        Ok(description) => HostReply::Described(description),
        Err(failure) => HostReply::StartFailed(failure),
    });
    Ok(ExitCode::Ok)
}

/// The main thread, once the model is loaded.
struct Worker {
    model: Model,
    requests: Arena,
    replies: Arena,
    shared: Arc<Shared>,
    bound: MemoryBound,
    queue: Receiver<Frame<HostRequest>>,
}

impl Worker {
    /// Serves requests. Ends with the code to exit with.
    fn run(self) -> ExitCode {
        while let Ok(Frame { header, payload }) = self.queue.recv() {
            if let Some(own_max) = self.shared.take_own_max() {
                self.bound.set(own_max);
            }
            let done = match header {
                HostRequest::Infer(infer) => self.infer(&infer, &payload),
                request => self.run_other(&request),
            };
            if let Err(code) = done {
                return code;
            }
        }
        ExitCode::Internal
    }

    /// Serves a request that is not an inference. It may come while an inference waits for memory for its outputs.
    fn run_other(&self, request: &HostRequest) -> Result<(), ExitCode> {
        match request {
            HostRequest::Trim => {
                self.trim();
                Ok(())
            }
            HostRequest::Stop => Err(ExitCode::Ok),
            _ => {
                process::log("the server sent a request out of turn");
                Err(ExitCode::Protocol)
            }
        }
    }

    fn infer(&self, infer: &Infer, payload: &[u8]) -> Result<(), ExitCode> {
        let id = infer.id;
        let encoded = match self.model.infer(infer, payload, &self.requests) {
            Ok(outputs) if self.may_send(id, outputs.bytes)? => outputs.encode(id, &self.replies),
            Ok(_) => Err(failure(
                FailureKind::OutputsDropped,
                "there is no memory for the outputs",
            )),
            Err(failure) => Err(failure),
        };
        // Before the reply: the server may send the next inference as soon as it has the reply.
        self.shared.inferring.store(false, Ordering::Release);
        match encoded {
            Ok(frame) => self.shared.send(&frame),
            Err(failure) => self.shared.reply(&HostReply::Failed { id, failure }),
        }
        Ok(())
    }

    /// Whether to send `bytes` of outputs. Asks the server when they are many, and waits for its answer. The server ends
    /// the process when the inference takes too long, so the wait has a deadline.
    fn may_send(&self, id: u64, bytes: u64) -> Result<bool, ExitCode> {
        if bytes <= OUTPUTS_UNASKED_MAX {
            return Ok(true);
        }
        self.shared.reply(&HostReply::OutputSize { id, bytes });
        loop {
            match self.queue.recv().map(|frame| frame.header) {
                Ok(HostRequest::Outputs { id: answered, send }) if answered == id => {
                    return Ok(send);
                }
                Ok(request) => self.run_other(&request)?,
                Err(_) => return Err(ExitCode::Internal),
            }
        }
    }

    fn trim(&self) {
        let begun = Instant::now();
        let before = memory::anonymous();
        memory::trim();
        let trimmed = Trimmed {
            before,
            after: memory::anonymous(),
            took_us: micros(begun),
        };
        self.shared.reply(&HostReply::Trimmed(trimmed));
    }
}
