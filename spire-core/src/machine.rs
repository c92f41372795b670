//! This machine and this moment, for records of who did something and when.

use std::process::Command;
use std::time::SystemTime;

/// The name of this machine.
pub fn host() -> String {
    let asked = || Command::new("hostname").output().ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(asked).unwrap_or_default();
    match name.trim() {
        "" => "a machine without a name".to_owned(),
        name => name.to_owned(),
    }
}

/// The time in UTC to the second, as in `2026-05-01T12:30:00Z`.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_has_a_name_and_the_time_a_year() {
        let (host, now) = (super::host(), super::now());
        assert!(!host.is_empty() && host.trim() == host, "{host:?}");
        assert!(now.len() == 20 && now.starts_with("20") && now.ends_with('Z'), "{now}");
    }
}
