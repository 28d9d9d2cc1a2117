//! Images: the header is decoded, the pixels are counted, and the image has its end.
//!
//! Pixels are not decoded: that is the work of a decoder in a process of its own. The count bounds what such a decoder
//! has to allocate. Bytes after the end of an image are accepted, as all viewers do: phones write previews and films
//! there.

mod gif;
mod jpeg;
mod png;
mod webp;

use super::fault::{ContentFault, Detail};

pub(super) use self::{gif::Gif, jpeg::Jpeg, png::Png, webp::WebP};

/// The size of an image, which is within the limit.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    width: u32,
    height: u32,
}

impl Size {
    /// `None` for an image without pixels.
    fn new(width: u32, height: u32, pixels_max: u64) -> Result<Option<Self>, ContentFault> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels > pixels_max {
            return Err(ContentFault::Pixels {
                width,
                height,
                pixels_max,
            });
        }
        Ok((pixels > 0).then_some(Self { width, height }))
    }

    fn detail(self) -> Detail {
        Detail::Image {
            width: self.width,
            height: self.height,
        }
    }
}
