//! The host: one model, one socket, two threads.
//!
//! The main thread loads and runs the model. The other thread reads the socket ([`crate::reader`]): it answers pings
//! at once, so that the owner can tell a busy host from a dead one, queues work for the main thread, and ends the
//! process when the owner closes the socket, also in the middle of a run. Replies are sent under a lock, one whole
//! frame at a time.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::Instant,
};

use headroom_model_protocol::{
    ArenaReader, ArenaWriter, FailureKind, FrameDecoder, HostReply, HostRequest, Infer,
    OUTPUTS_UNASKED_MAX, Start, fds,
};

use crate::{
    memory::{self, MemoryBound},
    model::{Failure, Model, ModelOutputs},
    process::{self, ExitCode},
    reader::{CHUNK, Job, Reader, Shared},
};

/// Jobs that wait for the main thread: at most one inference, one answer about outputs, one trim and one stop.
const QUEUE: usize = 4;

/// The reading thread's stack; its buffers are on the heap.
const READER_STACK: usize = 256 << 10;

/// Serves one model until the owner stops it.
pub(crate) fn serve(socket: UnixStream) -> ExitCode {
    memory::limit_arenas();
    match read_start(socket) {
        Ok(Some(started)) => run(started),
        // The owner closed the socket before it said what to load.
        Ok(None) => ExitCode::Ok,
        Err(error) => {
            process::log(&format!("the host cannot start: {error}"));
            ExitCode::Protocol
        }
    }
}

/// The first frame, its arenas, and the socket after it.
struct Started {
    start: Start,
    socket: UnixStream,
    decoder: FrameDecoder<HostRequest>,
    requests: ArenaReader,
    replies: ArenaWriter,
}

fn read_start(socket: UnixStream) -> io::Result<Option<Started>> {
    socket.set_nonblocking(false)?;
    let mut decoder = FrameDecoder::new();
    let mut received: Vec<OwnedFd> = Vec::new();
    let mut buffer = vec![0; CHUNK];
    let frame = loop {
        if let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
            break frame;
        }
        match fds::receive_with_fds(&socket, &mut buffer, &mut received)? {
            0 => return Ok(None),
            bytes => decoder.push(&buffer[..bytes]),
        }
    };
    let HostRequest::Start(start) = frame.header else {
        return Err(io::Error::other("the first request is not a start"));
    };
    let mut received = received.into_iter();
    let (Some(requests), Some(replies)) = (received.next(), received.next()) else {
        return Err(io::Error::other("the start came without its two arenas"));
    };
    Ok(Some(Started {
        start,
        socket,
        decoder,
        requests: ArenaReader::from_fd(requests),
        replies: ArenaWriter::from_fd(replies),
    }))
}

fn run(started: Started) -> ExitCode {
    let Started {
        start,
        socket,
        decoder,
        requests,
        replies,
    } = started;
    let bound = prepare_process(&start);
    let shared = match socket.try_clone() {
        Ok(writer) => Arc::new(Shared::new(writer)),
        Err(error) => {
            process::log(&format!("cannot duplicate the socket: {error}"));
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
        process::log(&format!("cannot start the reading thread: {error}"));
        return ExitCode::Internal;
    }
    match Model::load(start) {
        Ok(model) => {
            shared.reply(&HostReply::Ready(model.describe()), &[]);
            let worker = Worker {
                model,
                requests,
                replies,
                shared,
                bound,
            };
            worker.run(&queue)
        }
        Err(failure) => {
            let (kind, message) = (failure.kind, failure.message);
            shared.reply(&HostReply::StartFailed { kind, message }, &[]);
            ExitCode::Refused
        }
    }
}

/// Applies the parts of a start that concern the process itself.
fn prepare_process(start: &Start) -> MemoryBound {
    process::set_name(&format!("hr:{}", start.model));
    if let Some(value) = start.oom_score_adj {
        process::set_oom_score_adj(value);
    }
    let bound = MemoryBound::new(start.threads);
    if let Some(own_max) = start.own_max {
        bound.set(own_max);
    }
    bound
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
                self.bound.set(own_max);
            }
            let done = match job {
                Job::Infer(infer, payload) => self.infer(&infer, &payload, queue),
                job => self.run_other(&job),
            };
            if let Err(code) = done {
                return code;
            }
        }
        ExitCode::Internal
    }

    /// Runs a job that is not an inference. It may come while an inference waits for memory for its outputs.
    fn run_other(&mut self, job: &Job) -> Result<(), ExitCode> {
        match job {
            Job::Trim => self.trim(),
            Job::Stop => return Err(ExitCode::Ok),
            Job::Infer(Infer { id, .. }, _) | Job::Outputs { id, .. } => {
                process::log(&format!("unexpected request for inference {id}"));
                return Err(ExitCode::Protocol);
            }
        }
        Ok(())
    }

    fn infer(
        &mut self,
        infer: &Infer,
        payload: &[u8],
        queue: &Receiver<Job>,
    ) -> Result<(), ExitCode> {
        let id = infer.id;
        let written = match self.model.infer(infer, payload, &self.requests) {
            Ok(outputs) if self.may_send(id, outputs.bytes, queue)? => self.write(id, outputs),
            Ok(_) => Err(Failure::new(
                FailureKind::OutputsDropped,
                "there is no memory for the outputs",
            )),
            Err(failure) => Err(failure),
        };
        // Before the reply: the owner may send the next inference as soon as it has the reply.
        self.shared.inferring.store(false, Ordering::Release);
        let sent = written.and_then(|(output, payload)| {
            self.shared.try_reply(&output, &payload).map_err(|error| {
                // Thousands of outputs with long names: the model decides the size of this reply alone.
                Failure::new(
                    FailureKind::Model,
                    format!("the outputs cannot be sent: {error}"),
                )
            })
        });
        if let Err(Failure { kind, message }) = sent {
            self.shared
                .reply(&HostReply::Failed { id, kind, message }, &[]);
        }
        Ok(())
    }

    fn write(&mut self, id: u64, outputs: ModelOutputs) -> Result<(HostReply, Vec<u8>), Failure> {
        let forward_us = outputs.forward_us;
        let (outputs, payload) = outputs.write(&mut self.replies)?;
        let reply = HostReply::Output {
            id,
            outputs,
            forward_us,
        };
        Ok((reply, payload))
    }

    /// Whether to send `bytes` of outputs. Asks the owner when they are many, and waits for its answer. The owner ends
    /// the process when the inference takes too long, so the wait has a deadline.
    fn may_send(&mut self, id: u64, bytes: u64, queue: &Receiver<Job>) -> Result<bool, ExitCode> {
        if bytes <= OUTPUTS_UNASKED_MAX {
            return Ok(true);
        }
        self.shared.reply(&HostReply::OutputSize { id, bytes }, &[]);
        loop {
            match queue.recv() {
                Ok(Job::Outputs { id: answered, send }) if answered == id => return Ok(send),
                Ok(job) => self.run_other(&job)?,
                Err(_) => return Err(ExitCode::Internal),
            }
        }
    }

    fn trim(&self) {
        let begun = Instant::now();
        let before = memory::anonymous();
        memory::trim();
        let after = memory::anonymous();
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let trimmed = HostReply::Trimmed {
            before,
            after,
            took_us,
        };
        self.shared.reply(&trimmed, &[]);
    }
}
