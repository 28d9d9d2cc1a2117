//! Speech recordings: reads 16 kHz mono WAV files of 16-bit samples and cuts them into chunks for a model.

#![expect(clippy::panic, reason = "how a test fails")]

use std::path::Path;

/// Samples per second.
const RATE: u32 = 16_000;

/// The samples of a file, between -1 and 1.
///
/// # Panics
/// When the file is missing or is not 16 kHz, mono, 16 bits.
pub fn samples(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| {
        panic!("{}: {error}; run scripts/setup.sh first", path.display());
    });
    read(&bytes).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The whole chunks of `size` samples in a file, in order.
///
/// # Panics
/// As [`samples`] does.
pub fn chunks(path: &Path, size: usize) -> Vec<Vec<f32>> {
    let samples = samples(path);
    samples.chunks_exact(size).map(<[f32]>::to_vec).collect()
}

fn read(bytes: &[u8]) -> Result<Vec<f32>, String> {
    if bytes.get(..4) != Some(b"RIFF") || bytes.get(8..12) != Some(b"WAVE") {
        return Err("is not a RIFF WAVE file".into());
    }
    let mut rest = &bytes[12..];
    let mut format_checked = false;
    while let Some((head, tail)) = rest.split_at_checked(8) {
        let size = u32_at(head, 4) as usize;
        let body = tail.get(..size).ok_or("ends in the middle of a chunk")?;
        match &head[..4] {
            b"fmt " => {
                check_format(body)?;
                format_checked = true;
            }
            b"data" if format_checked => return Ok(floats(body)),
            _ => {}
        }
        // Chunks begin at even offsets.
        rest = tail.get(size + size % 2..).unwrap_or_default();
    }
    Err("has no samples".into())
}

fn check_format(format: &[u8]) -> Result<(), String> {
    if format.len() < 16 {
        return Err("has a format that is too short".into());
    }
    let (codec, channels) = (u16_at(format, 0), u16_at(format, 2));
    let (rate, bits) = (u32_at(format, 4), u16_at(format, 14));
    if (codec, channels, rate, bits) == (1, 1, RATE, 16) {
        return Ok(());
    }
    Err(format!(
        "has codec {codec}, {channels} channels, {rate} Hz, {bits} bits; expected PCM (codec 1), 1 channel, {RATE} Hz, 16 bits"
    ))
}

fn floats(body: &[u8]) -> Vec<f32> {
    let (pairs, _) = body.as_chunks::<2>();
    let sample = |pair: &[u8; 2]| f32::from(i16::from_le_bytes(*pair)) / 32768.0;
    pairs.iter().map(sample).collect()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}
