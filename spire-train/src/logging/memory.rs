//! Peak memory of this process.

/// The peak resident memory of this process, in bytes; `None` if the system does not report it (only Linux does).
pub fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn the_peak_is_at_least_what_is_allocated() {
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(super::peak().unwrap() >= held.len() as u64);
    }
}
