//! The versions of the format of segments and frames.

use serde::{Deserialize, Serialize};

/// A version of the format of a segment and of all frames in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum LogFormat {
    /// The first format. It is still read, and its segments are rewritten in the background.
    One,
    /// The format that is written.
    Two,
    /// The format of archived segments: frames as in format 2, in compressed blocks.
    Three,
}

/// A format of a later version of Heliostat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("format {0}: a later version of Heliostat has written it")]
pub struct UnknownFormat(pub u32);

impl LogFormat {
    /// The format that is written.
    pub const CURRENT: LogFormat = LogFormat::Two;

    /// The format's number, as it stands in files.
    pub fn number(self) -> u32 {
        match self {
            LogFormat::One => 1,
            LogFormat::Two => 2,
            LogFormat::Three => 3,
        }
    }

    /// The length of a frame's header in bytes.
    pub fn frame_header_bytes(self) -> usize {
        match self {
            LogFormat::One => 40,
            LogFormat::Two | LogFormat::Three => 64,
        }
    }
}

impl TryFrom<u32> for LogFormat {
    type Error = UnknownFormat;

    fn try_from(number: u32) -> Result<LogFormat, UnknownFormat> {
        match number {
            1 => Ok(LogFormat::One),
            2 => Ok(LogFormat::Two),
            3 => Ok(LogFormat::Three),
            _ => Err(UnknownFormat(number)),
        }
    }
}

impl From<LogFormat> for u32 {
    fn from(format: LogFormat) -> u32 {
        format.number()
    }
}

/// A number that rises each time that a writer takes over the log. Frames behind that place that a writer of
/// an earlier epoch has written are not part of the log. 0: from before there were epochs.
pub type Epoch = u64;

/// The version of Heliostat that a part of a file needs, from which readers on know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release(pub u32);

impl Release {
    /// The first one that reads format 2 as it is written here.
    pub const OF_FORMAT_TWO: Release = Release::new(0, 1, 0);

    /// `major << 24 | minor << 16 | patch`.
    pub const fn new(major: u8, minor: u8, patch: u16) -> Release {
        Release((major as u32) << 24 | (minor as u32) << 16 | patch as u32)
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Release(number) = *self;
        write!(out, "{}.{}.{}", number >> 24, number >> 16 & 0xff, number & 0xffff)
    }
}
