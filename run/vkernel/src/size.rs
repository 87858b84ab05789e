//! Memory sizes: a number with K, M, G or T.

use std::str::FromStr;

/// A size of RAM in bytes, large enough for a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// With less the kernel has no room for a program.
pub const MINIMUM: u64 = 16 << 20;
/// A user address space is 47 bits on every x86_64 host, and RAM is mapped as a whole.
const MAXIMUM: u64 = 1 << 46;

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" | "kib" => 1 << 10,
            "m" | "mb" | "mib" => 1 << 20,
            "g" | "gb" | "gib" => 1 << 30,
            "t" | "tb" | "tib" => 1 << 40,
            _ => return Err("a size is a number with K, M, G or T, as in 512M".to_string()),
        };
        let number: u64 = match digits.parse() {
            Ok(number) => number,
            Err(_) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => u64::MAX,
            Err(_) => return Err("a size is a number with K, M, G or T, as in 512M".to_string()),
        };
        match number.saturating_mul(unit) {
            bytes if bytes < MINIMUM => Err("too little: the kernel needs at least 16M".to_string()),
            bytes if bytes > MAXIMUM => Err("too much: an address space has room for 64T".to_string()),
            bytes => Ok(Size(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in [
            ("16777216", 16 << 20),
            ("16m", 16 << 20),
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("20000k", 20000 << 10),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn bounds_and_nonsense() {
        let error = |text: &str| text.parse::<Size>().unwrap_err();
        assert!(error("1K").contains("16M"));
        assert!(error("0").contains("16M"));
        assert!(error("65T").contains("64T"));
        assert!(error("99999999999999999999999999G").contains("64T"));
        assert!(error("18446744073709551615T").contains("64T"));
        for text in ["", "G", "-1G", "1.5G", "1X", "1 G", "0x10M", "1GG", "ä"] {
            assert!(error(text).contains("512M"), "{text}");
        }
    }
}
