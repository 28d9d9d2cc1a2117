//! What uploaded files are: their kinds, their names, and whether their content is what they claim.
//!
//! A file is served again to others, and given to programs that are less careful than this one. So its content must be
//! of the kind that its name says, whole, and within bounds that let a reader allocate what the file asks for. The
//! checks read what is needed for that and no more: they are no decoders, and a file that passes may still be one that
//! a decoder refuses.
//!
//! - [`FileName`] and [`kind_of`] judge what the client says, before the first byte.
//! - [`Check::feed`] takes the bytes as they come, in any pieces, and refuses as early as it can.
//! - [`Check::finish`] looks at the places that a format finds from its end (directories, footers).
//!
//! Everything here is blocking and pure. A check has at most some 130 KiB of memory while it finishes and 1 KiB
//! before, whatever the file. Which fault a file has does not depend on the pieces in which it came.

mod csv;
mod fault;
mod image;
mod json;
mod kind;
mod name;
mod parquet;
mod pdf;
mod sniff;
#[cfg(test)]
mod tests;
mod text;
mod torch;
mod walk;
mod wav;
mod window;
mod zip;

use std::{fs::File, io};

pub use self::{
    fault::{ContentFault, Detail, Facts, Limits, Problem},
    kind::{Kind, KindFault, UnknownKind, kind_of},
    name::{FileName, NameFault},
};
use self::{
    image::{Gif, Jpeg, Png, WebP},
    sniff::HEAD,
    text::Text,
    torch::Names,
    walk::Walk,
    wav::Wav,
    window::Window,
};

/// The check of one file on its way in.
#[derive(Debug)]
pub struct Check {
    kind: Kind,
    limits: Limits,
    length: u64,
    /// The first bytes, until they are enough to judge.
    head: [u8; HEAD],
    head_len: usize,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Text(Text),
    Png(Walk<Png>),
    Jpeg(Walk<Jpeg>),
    Gif(Walk<Gif>),
    WebP(Walk<WebP>),
    Wav(Walk<Wav>),
    /// Judged from the end.
    End,
}

impl Body {
    fn new(kind: Kind, limits: &Limits) -> Self {
        match kind {
            Kind::Text | Kind::Markdown | Kind::Json | Kind::Csv => {
                Self::Text(Text::new(kind, limits))
            }
            Kind::Png => Self::Png(Walk::new(Png::new(limits.pixels_max))),
            Kind::Jpeg => Self::Jpeg(Walk::new(Jpeg::new(limits.pixels_max))),
            Kind::Gif => Self::Gif(Walk::new(Gif::new(limits.pixels_max))),
            Kind::WebP => Self::WebP(Walk::new(WebP::new(limits.pixels_max))),
            Kind::Wav => Self::Wav(Walk::new(Wav::new())),
            Kind::Pdf | Kind::Parquet => Self::End,
            Kind::Zip | Kind::TorchScript | Kind::ExportedProgram => Self::End,
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ContentFault> {
        match self {
            Self::Text(text) => text.feed(bytes),
            Self::Png(walk) => walk.feed(bytes),
            Self::Jpeg(walk) => walk.feed(bytes),
            Self::Gif(walk) => walk.feed(bytes),
            Self::WebP(walk) => walk.feed(bytes),
            Self::Wav(walk) => walk.feed(bytes),
            Self::End => Ok(()),
        }
    }
}

impl Check {
    /// A check of a file that claims to be of a kind.
    pub fn new(kind: Kind, limits: Limits) -> Self {
        Self {
            kind,
            length: 0,
            head: [0; HEAD],
            head_len: 0,
            body: Body::new(kind, &limits),
            limits,
        }
    }

    /// Takes the next bytes. After a fault the file is refused: feed no more.
    ///
    /// The first judgement falls once 64 bytes have come.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), ContentFault> {
        self.length += bytes.len() as u64;
        if self.head_len < HEAD {
            let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head_len));
            self.head[self.head_len..self.head_len + head.len()].copy_from_slice(head);
            self.head_len += head.len();
            if self.head_len < HEAD {
                return Ok(());
            }
            self.judge_head()?;
            bytes = rest;
        }
        self.body.feed(bytes)
    }

    /// Judges the whole file, of which all bytes have been fed and can be read back.
    pub fn finish(mut self, file: &File, length: u64) -> Result<Facts, ContentFault> {
        if length != self.length {
            let fed = self.length;
            let message = format!("the file has {length} bytes, but {fed} came in");
            return Err(ContentFault::Read(io::Error::other(message)));
        }
        let may_be_empty = matches!(self.kind, Kind::Text | Kind::Markdown | Kind::Csv);
        if length == 0 && !may_be_empty {
            return Err(ContentFault::Empty(self.kind));
        }
        if self.head_len < HEAD {
            self.judge_head()?;
        }
        let detail = match self.body {
            Body::Text(text) => text.finish(),
            Body::Png(walk) => walk.finish(length),
            Body::Jpeg(walk) => walk.finish(length),
            Body::Gif(walk) => walk.finish(length),
            Body::WebP(walk) => walk.finish(length),
            Body::Wav(walk) => walk.finish(length),
            Body::End => finish_from_end(self.kind, &self.limits, file, length),
        };
        Ok(Facts {
            media_type: self.kind.media_type(),
            detail: detail?,
        })
    }

    fn judge_head(&mut self) -> Result<(), ContentFault> {
        let head = &self.head[..self.head_len];
        sniff::check(self.kind, head)?;
        let head = match &mut self.body {
            Body::Text(text) => text.skip_mark(head),
            _ => head,
        };
        self.body.feed(head)
    }
}

fn finish_from_end(
    kind: Kind,
    limits: &Limits,
    file: &File,
    length: u64,
) -> Result<Detail, ContentFault> {
    let mut window = Window::new(file, length);
    match kind {
        Kind::Pdf => pdf::finish(&mut window),
        Kind::Parquet => parquet::finish(&mut window),
        _ => {
            let mut names = Names::default();
            let detail = zip::finish(&mut window, kind, limits, |name| names.add(name))?;
            names.finish(kind)?;
            Ok(detail)
        }
    }
}
