//! The host: one model, one socket, two threads.
//!
//! The main thread loads and runs the model. The other reads the socket: it answers pings at once, so that the owner
//! can tell a busy host from a dead one, queues work for the main thread, and ends the process when the owner closes
//! the socket, also in the middle of a run. Replies go out under a lock, whole frames at a time.

use std::{
    io,
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::Instant,
};

use headroom_model_protocol::{
    ArenaReader, ArenaWriter, FailureKind, Frame, FrameDecoder, HostReply, HostRequest, Infer,
    OUTPUTS_UNASKED_MAX, Start, StartFailureKind,
};

use crate::{
    descriptors,
    memory::{self, MemoryBound},
    model::{Failure, Model},
    process::{self, ExitCode},
    reader::{CHUNK, Job, Reader, Shared},
};

/// Requests that wait for the main thread. One inference may be under way; the rest is room for resets and trims.
const QUEUE: usize = 16;

/// The reading thread's stack; it keeps its buffers on the heap.
const READER_STACK: usize = 256 << 10;

/// Serves one model until told to stop.
pub(crate) fn serve(socket: UnixStream) -> ExitCode {
    memory::limit_arenas();
    match Host::accept(socket) {
        Ok(Some((host, start))) => host.run(start),
        // The owner thought better of it before it said what to load.
        Ok(None) => ExitCode::Ok,
        Err(error) => {
            process::log(&format!("the host cannot start: {error}"));
            ExitCode::Protocol
        }
    }
}

/// A host that knows what to load.
struct Host {
    socket: UnixStream,
    decoder: FrameDecoder<HostRequest>,
    requests: ArenaReader,
    replies: ArenaWriter,
}

impl Host {
    /// Reads the first frame with its descriptors.
    fn accept(socket: UnixStream) -> io::Result<Option<(Self, Start)>> {
        socket.set_nonblocking(false)?;
        let mut decoder = FrameDecoder::new();
        let mut fds = Vec::new();
        let mut buffer = vec![0; CHUNK];
        let frame = loop {
            if let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
                break frame;
            }
            let (bytes, received) = descriptors::receive(&socket, &mut buffer)?;
            if bytes == 0 {
                return Ok(None);
            }
            decoder.push(&buffer[..bytes]);
            fds.extend(received);
        };
        let Frame {
            header: HostRequest::Start(start),
            ..
        } = frame
        else {
            return Err(io::Error::other("the first request is not a start"));
        };
        let mut fds = fds.into_iter();
        let (Some(requests), Some(replies)) = (fds.next(), fds.next()) else {
            return Err(io::Error::other("the start came without its two arenas"));
        };
        let (requests, replies) = (
            ArenaReader::from_fd(requests),
            ArenaWriter::from_fd(replies),
        );
        Ok(Some((
            Self {
                socket,
                decoder,
                requests,
                replies,
            },
            start,
        )))
    }

    fn run(self, start: Start) -> ExitCode {
        let Self {
            socket,
            decoder,
            requests,
            replies,
        } = self;
        let bound = prepare_process(&start);
        let shared = match socket.try_clone() {
            Ok(writer) => Arc::new(Shared::new(writer)),
            Err(error) => {
                process::log(&format!("the socket cannot be shared: {error}"));
                return ExitCode::Internal;
            }
        };
        let (jobs, queue) = sync_channel(QUEUE);
        let reader = Reader {
            socket,
            decoder,
            jobs,
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new()
            .name("hr-reader".to_owned())
            .stack_size(READER_STACK);
        if let Err(error) = thread.spawn(move || reader.run()) {
            process::log(&format!("no thread for the socket: {error}"));
            return ExitCode::Internal;
        }
        match catch_unwind(AssertUnwindSafe(|| load(start, &shared))) {
            Ok(Ok(model)) => Worker {
                model,
                requests,
                replies,
                shared,
                bound,
            }
            .run(&queue),
            Ok(Err(code)) => code,
            Err(_) => {
                let message = "the host panicked while it loaded the model".to_owned();
                shared.reply(
                    &HostReply::StartFailed {
                        kind: StartFailureKind::Internal,
                        message,
                    },
                    &[],
                );
                ExitCode::Internal
            }
        }
    }
}

/// What a start asks of the process itself.
fn prepare_process(start: &Start) -> MemoryBound {
    process::set_name(&format!("hr:{}", start.model));
    if let Some(value) = start.oom_score_adj {
        process::set_oom_score_adj(value);
    }
    let bound = MemoryBound::new(start.threads);
    if let Some(own_max) = start.own_max {
        set_bound(&bound, own_max);
    }
    bound
}

/// Failing is no reason not to serve: the server looks at what this process uses, too.
fn set_bound(bound: &MemoryBound, own_max: u64) {
    if let Err(error) = bound.set(own_max) {
        process::log(&format!("cannot bound this process's memory: {error}"));
    }
}

fn load(start: Start, shared: &Shared) -> Result<Model, ExitCode> {
    match Model::start(start) {
        Ok((model, ready)) => {
            shared.reply(&HostReply::Ready(ready), &[]);
            Ok(model)
        }
        Err(failure) => {
            let (kind, message) = (failure.kind, failure.message);
            shared.reply(&HostReply::StartFailed { kind, message }, &[]);
            Err(ExitCode::Refused)
        }
    }
}

/// The main thread, once the model is loaded.
struct Worker {
    model: Model,
    requests: ArenaReader,
    replies: ArenaWriter,
    shared: Arc<Shared>,
    bound: MemoryBound,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Job>) -> ExitCode {
        while let Ok(job) = queue.recv() {
            if let Some(own_max) = self.shared.take_own_max() {
                set_bound(&self.bound, own_max);
            }
            self.shared
                .busy_since
                .store(self.shared.elapsed_us(), Ordering::Release);
            let done = match job {
                Job::Infer(infer, payload) => self.infer(&infer, &payload, queue),
                job => self.run_between(job),
            };
            if let Err(code) = done {
                return code;
            }
        }
        // The reading thread is gone without having ended the process: it panicked.
        ExitCode::Internal
    }

    /// Jobs that may come between two inferences, or while one waits for memory for its outputs.
    fn run_between(&mut self, job: Job) -> Result<(), ExitCode> {
        match job {
            Job::ResetStates(id) => self.reset_states(id),
            Job::Trim(id) => self.trim(id),
            Job::Stop => Err(ExitCode::Ok),
            Job::Infer(Infer { id, .. }, _) | Job::SendOutputs(id) | Job::DropOutputs(id) => {
                let message = "no inference of this id waits for memory";
                self.fail(id, Failure::new(FailureKind::Protocol, message))
            }
        }
    }

    fn infer(
        &mut self,
        infer: &Infer,
        payload: &[u8],
        queue: &Receiver<Job>,
    ) -> Result<(), ExitCode> {
        let id = infer.id;
        let result = catch_unwind(AssertUnwindSafe(|| {
            self.model.infer(infer, payload, &self.requests)
        }));
        let written = match result {
            Ok(Ok(outcome)) if self.may_send(id, outcome.bytes, queue)? => {
                let forward_us = outcome.forward_us;
                let written = catch_unwind(AssertUnwindSafe(|| outcome.write(&mut self.replies)));
                written.map(|written| written.map(|written| (written, forward_us)))
            }
            Ok(Ok(_)) => Ok(Err(Failure::new(
                FailureKind::NoMemory,
                "there is no memory for the outputs",
            ))),
            Ok(Err(failure)) => Ok(Err(failure)),
            Err(panic) => Err(panic),
        };
        // Before the reply: the owner may send the next one as soon as it has it.
        self.shared.inferring.store(false, Ordering::Release);
        match written {
            Ok(Ok(((outputs, payload), forward_us))) => {
                let output = HostReply::Output {
                    id,
                    outputs,
                    forward_us,
                };
                self.answer(id, &output, &payload);
                Ok(())
            }
            Ok(Err(failure)) => self.fail(id, failure),
            Err(_) => self.fail(id, Failure::new(FailureKind::Internal, "the host panicked")),
        }
    }

    /// Whether `bytes` of outputs may be put into the reply: asks the owner when they are many, and waits for its
    /// word. The owner has a deadline for the inference, and ends the process when it is over.
    fn may_send(&mut self, id: u64, bytes: u64, queue: &Receiver<Job>) -> Result<bool, ExitCode> {
        if bytes <= OUTPUTS_UNASKED_MAX {
            return Ok(true);
        }
        self.shared.reply(&HostReply::OutputSize { id, bytes }, &[]);
        loop {
            match queue.recv() {
                Ok(Job::SendOutputs(word)) if word == id => return Ok(true),
                Ok(Job::DropOutputs(word)) if word == id => return Ok(false),
                Ok(job) => {
                    let since = self.shared.busy_since.load(Ordering::Acquire);
                    self.run_between(job)?;
                    // The inference is still under way.
                    self.shared.busy_since.store(since, Ordering::Release);
                }
                Err(_) => return Err(ExitCode::Internal),
            }
        }
    }

    fn reset_states(&mut self, id: u64) -> Result<(), ExitCode> {
        match catch_unwind(AssertUnwindSafe(|| self.model.reset_states())) {
            Ok(Ok(())) => {
                self.answer(id, &HostReply::Done { id }, &[]);
                Ok(())
            }
            Ok(Err(failure)) => self.fail(id, failure),
            Err(_) => self.fail(id, Failure::new(FailureKind::Internal, "the host panicked")),
        }
    }

    fn trim(&mut self, id: u64) -> Result<(), ExitCode> {
        let begun = Instant::now();
        let before = memory::anonymous();
        memory::trim();
        let after = memory::anonymous();
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.answer(
            id,
            &HostReply::Trimmed {
                id,
                before,
                after,
                took_us,
            },
            &[],
        );
        Ok(())
    }

    /// Answers a failed request; past an internal failure the state is unknown, so the process ends.
    fn fail(&self, id: u64, failure: Failure) -> Result<(), ExitCode> {
        let Failure { kind, message } = failure;
        self.answer(id, &HostReply::Failed { id, kind, message }, &[]);
        if kind == FailureKind::Internal {
            Err(ExitCode::Internal)
        } else {
            Ok(())
        }
    }

    fn answer(&self, id: u64, reply: &HostReply, payload: &[u8]) {
        self.shared.busy_since.store(0, Ordering::Release);
        if let Err(error) = self.shared.try_reply(reply, payload) {
            // Thousands of outputs with long names: outputs are the one reply whose size the model decides.
            let message = format!("the outputs cannot be sent: {error}");
            self.shared.reply(
                &HostReply::Failed {
                    id,
                    kind: FailureKind::Model,
                    message,
                },
                &[],
            );
        }
    }
}
