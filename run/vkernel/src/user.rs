//! Who the program runs as: `--user UID[:GID]`, names and groups from the root's own `/etc/passwd` and `/etc/group`.

use anyhow::{Result, bail};

/// A user as the program is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Login name, where `/etc/passwd` has one.
    pub name: Option<String>,
    /// Home directory; `/` when not known.
    pub home: String,
    /// Login shell; `/bin/sh` when not known.
    pub shell: String,
}

/// The account files of the root; empty where they do not exist.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

/// A line of `passwd(5)`.
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

impl Accounts {
    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.passwd.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let &[name, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
            Some(Entry { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home, shell })
        })
    }

    /// Lines of `group(5)` as name, id and members.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let &[name, _, gid, members] = fields.as_slice() else { return None };
            Some((name, gid.parse().ok()?, members))
        })
    }

    /// The user with these ids, with what the files say about it.
    pub fn by_ids(&self, uid: u32, gid: u32, groups: Vec<u32>) -> User {
        let entry = self.entries().find(|e| e.uid == uid);
        let or = |text: &str, default: &str| if text.is_empty() { default } else { text }.to_string();
        User {
            uid,
            gid,
            groups,
            name: entry.as_ref().map(|e| e.name.to_string()),
            home: or(entry.as_ref().map_or("", |e| e.home), "/"),
            shell: or(entry.as_ref().map_or("", |e| e.shell), "/bin/sh"),
        }
    }

    /// The user that `--user` names.
    pub fn parse(&self, text: &str) -> Result<User> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let entry = match user.parse::<u32>() {
            Ok(uid) => self.entries().find(|e| e.uid == uid),
            Err(_) => match self.entries().find(|e| e.name == user) {
                Some(entry) => Some(entry),
                None => bail!("--user {text}: no user {user:?} in the root's /etc/passwd"),
            },
        };
        let uid = match (&entry, user.parse()) {
            (Some(entry), _) => entry.uid,
            (None, Ok(uid)) => uid,
            (None, Err(_)) => bail!("--user {text}: {user:?} is no user"),
        };
        let (gid, groups) = match group {
            Some(group) => {
                let named = || self.groups().find(|g| g.0 == group).map(|g| g.1);
                match group.parse().ok().or_else(named) {
                    Some(gid) => (gid, Vec::new()),
                    None => bail!("--user {text}: no group {group:?} in the root's /etc/group"),
                }
            }
            None => {
                let name = entry.as_ref().map_or("", |e| e.name);
                let is_member = |members: &str| !name.is_empty() && members.split(',').any(|m| m == name);
                let gid = entry.as_ref().map_or(0, |e| e.gid);
                (gid, self.groups().filter(|g| is_member(g.2)).map(|g| g.1).collect())
            }
        };
        // (uid_t)-1 means "leave as it is" in system calls, so it is no user.
        if uid == u32::MAX || gid == u32::MAX {
            bail!("--user {text}: {} is not a valid id", u32::MAX);
        }
        Ok(self.by_ids(uid, gid, groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\nbroken\nann:x:1000:1001:Ann,,,:/home/ann:\n"
                .to_string(),
            group: "root:x:0:\nann:x:1001:\naudio:x:29:bob,ann\nvideo:x:44:bob\n".to_string(),
        }
    }

    #[test]
    fn by_name_number_and_group() {
        let ann = accounts().parse("ann").unwrap();
        assert_eq!((ann.uid, ann.gid, ann.groups.as_slice()), (1000, 1001, &[29][..]));
        assert_eq!((ann.home.as_str(), ann.shell.as_str()), ("/home/ann", "/bin/sh"));
        assert_eq!(accounts().parse("1000").unwrap(), ann);
        let stranger = accounts().parse("77").unwrap();
        assert_eq!((stranger.uid, stranger.gid, stranger.home.as_str()), (77, 0, "/"));
        let mixed = accounts().parse("ann:video").unwrap();
        assert_eq!((mixed.uid, mixed.gid, mixed.groups.len()), (1000, 44, 0));
        assert_eq!(accounts().parse("5:6").unwrap().gid, 6);
        assert_eq!(accounts().by_ids(0, 0, vec![]).shell, "/bin/bash");
    }

    #[test]
    fn unknown_ones_say_so() {
        for bad in ["bob", "", ":", "0:nogroup", "-1", "4294967295", "4294967296", "1:4294967295"] {
            let error = accounts().parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("--user"), "{error}");
        }
    }
}
