//! `--volume HOST:GUEST[:ro]`.

use anyhow::{Context, Result, bail};
use kernel::VolumeConfig;

/// Parses and checks one volume.
pub fn parse(text: &str) -> Result<VolumeConfig> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, guest, read_only) = match *parts.as_slice() {
        [host, guest] => (host, guest, false),
        [host, guest, "ro"] => (host, guest, true),
        [host, guest, "rw"] => (host, guest, false),
        [_, _, mode] => bail!("--volume {text}: the mode is ro or rw, not {mode:?}"),
        _ => bail!("--volume {text}: must be HOST:GUEST or HOST:GUEST:ro"),
    };
    if host.is_empty() {
        bail!("--volume {text}: the host path is empty");
    }
    if !guest.starts_with('/') {
        bail!("--volume {text}: the guest path must be absolute");
    }
    if guest.split('/').any(|part| part == "..") {
        bail!("--volume {text}: the guest path must not contain ..");
    }
    let guest = match guest.trim_end_matches('/') {
        "" => bail!("--volume {text}: the guest path is the root; use --root"),
        guest => guest.to_string(),
    };
    let host = std::fs::canonicalize(host).with_context(|| format!("--volume {text}: host path {host:?}"))?;
    let kind = host.metadata().with_context(|| format!("--volume {text}"))?.file_type();
    if !kind.is_dir() && !kind.is_file() {
        bail!("--volume {text}: the host path is neither a directory nor a regular file");
    }
    let Some(host) = host.to_str() else { bail!("--volume {text}: the host path is not UTF-8") };
    Ok(VolumeConfig { host: host.to_string(), guest, read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ones() {
        let v = parse("/etc:/mnt/etc/:ro").unwrap();
        assert_eq!((v.host.as_str(), v.guest.as_str(), v.read_only), ("/etc", "/mnt/etc", true));
        let v = parse("/etc/passwd:/p").unwrap();
        assert_eq!((v.host.as_str(), v.guest.as_str(), v.read_only), ("/etc/passwd", "/p", false));
        assert!(parse(".:/here").unwrap().host.starts_with('/'));
    }

    #[test]
    fn bad_ones_say_why() {
        for (text, why) in [
            ("/etc", "HOST:GUEST"),
            ("a:b:c:d", "HOST:GUEST"),
            ("/etc:mnt", "absolute"),
            ("/etc:", "absolute"),
            (":/mnt", "empty"),
            ("/etc:/mnt:rx", "ro or rw"),
            ("/etc:/", "--root"),
            ("/etc:/a/../b", ".."),
            ("/does/not/exist:/mnt", "No such file"),
            ("/dev/null:/mnt", "neither"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(why) && error.contains(text), "{text}: {error}");
        }
    }
}
