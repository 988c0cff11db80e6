//! Logs as the first versions have written them: format 1 of segments, frames and their list.

use std::path::Path;

use heliostat::internals::model::NewEvent;

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn event(event: &NewEvent, stream_version: u64, out: &mut Vec<u8>) {
    varint(u64::from(event.version), out);
    varint(((event.time_us << 1) ^ (event.time_us >> 63)) as u64, out);
    varint(stream_version, out);
    match &event.stream {
        None => varint(0, out),
        Some(stream) => {
            varint(stream.len() as u64 + 1, out);
            out.extend_from_slice(stream.as_bytes());
        }
    }
    for part in [event.event_type.as_bytes(), event.source.as_bytes(), event.id.as_bytes()] {
        bytes(part, out);
    }
    bytes(&event.metadata, out);
    bytes(&event.data, out);
}

/// A frame; without events it only tells the time.
pub fn frame(tick: u64, first: u64, events: &[(NewEvent, u64)]) -> Vec<u8> {
    let mut raw = Vec::new();
    events.iter().for_each(|(new, stream_version)| event(new, *stream_version, &mut raw));
    let payload = lz4_flex::block::compress(&raw);
    let mut frame = vec![0; 40];
    frame[0..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    frame[8..16].copy_from_slice(&tick.to_le_bytes());
    frame[16..24].copy_from_slice(&first.to_le_bytes());
    frame[24..28].copy_from_slice(&(events.len() as u32).to_le_bytes());
    frame[28..32].copy_from_slice(&(raw.len() as u32).to_le_bytes());
    frame.extend_from_slice(&payload);
    let crc = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

fn header(first: u64) -> Vec<u8> {
    let mut header = b"HELIOLOG\x01\0\0\0\0\0\0\0".to_vec();
    header.extend_from_slice(&[7; 16]);
    header.extend_from_slice(&first.to_le_bytes());
    header.resize(64, 0);
    let crc = crc32fast::hash(&header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

/// A log of these events, in commits and segments of so many, each commit followed by a frame that
/// only tells the time: the names and contents of its files. The last segment is not sealed.
pub fn files(
    events: &[NewEvent],
    per_commit: usize,
    commits_per_segment: usize,
) -> Vec<(String, Vec<u8>)> {
    let mut versions = std::collections::HashMap::new();
    let numbered: Vec<(NewEvent, u64)> = events
        .iter()
        .map(|event| {
            let version = match &event.stream {
                None => 0,
                Some(stream) => {
                    let version = versions.entry(stream.clone()).or_insert(0);
                    *version += 1;
                    *version
                }
            };
            (event.clone(), version)
        })
        .collect();
    let (mut files, mut listed, mut first, mut tick) = (Vec::new(), Vec::new(), 1_u64, 1000);
    let segments: Vec<_> = numbered.chunks(per_commit * commits_per_segment).collect();
    for (n, segment) in segments.iter().enumerate() {
        let begins = first;
        let mut content = header(begins);
        for commit in segment.chunks(per_commit) {
            content.extend(frame(tick, first, commit));
            first += commit.len() as u64;
            content.extend(frame(tick + 1, first, &[]));
            tick += 2;
        }
        let sealed = n + 1 < segments.len();
        let (last, last_tick, bytes) =
            if sealed { (first - 1, tick - 1, content.len()) } else { (begins - 1, 0, 64) };
        listed.push(format!(
            r#"{{"first":{begins},"sealed":{sealed},"last":{last},"tick":{last_tick},"bytes":{bytes}}}"#
        ));
        files.push((format!("{begins:020}.log"), content));
    }
    let json = format!(
        r#"{{"format":1,"log":"07070707-0707-0707-0707-070707070707","reserved":{},"segments":[{}],"gaps":[]}}"#,
        first + (1 << 18),
        listed.join(",")
    );
    let list = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).repeat(2);
    files.push(("segments".to_string(), list.into_bytes()));
    files
}

/// Writes such a log into a directory, which is made.
pub fn write(directory: &Path, events: &[NewEvent], per_commit: usize, commits_per_segment: usize) {
    std::fs::create_dir_all(directory).unwrap();
    for (name, content) in files(events, per_commit, commits_per_segment) {
        std::fs::write(directory.join(name), content).unwrap();
    }
}
