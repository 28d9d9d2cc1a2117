//! Finding the folder of our own control group: `/proc/self/cgroup` says which group, and
//! `/proc/self/mountinfo` where its hierarchy is to be seen.
//!
//! The two speak of different things in a container: the group's name may be that of the host,
//! while only the container's part of the hierarchy is mounted; with a namespace of its own, both
//! begin at the container's own group.

use std::path::{Component, Path, PathBuf};

use super::{ProbeError, System, read_text};

/// Where our group is, and the top of what we can see of its hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// The group's folder.
    pub(super) directory: PathBuf,
    /// The highest folder of its hierarchy that is mounted; `directory` lies in it.
    pub(super) top: PathBuf,
}

/// Finds our group in the hierarchy whose line in `/proc/self/cgroup` satisfies `is_ours` (it gets
/// the hierarchy's number and controllers) and whose mounts satisfy `is_mount` (it gets the file
/// system's type and options).
pub(super) fn find(
    system: &System,
    is_ours: impl Fn(&str, &str) -> bool,
    is_mount: impl Fn(&str, &str) -> bool,
) -> Result<Group, ProbeError> {
    let groups = read_text(&system.own("cgroup"))?;
    let group = groups
        .lines()
        .find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers) = (fields.next()?, fields.next()?);
            let path = fields.next().filter(|path| path.starts_with('/'))?;
            is_ours(number, controllers).then_some(path)
        })
        .ok_or(ProbeError::NoGroup)?;
    let mounts = read_text(&system.own("mountinfo"))?;
    let mounts: Vec<_> = mounts
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| is_mount(&mount.kind, &mount.options))
        .collect();
    let found = locate(&mounts, Path::new(group)).ok_or(ProbeError::NotMounted)?;
    Ok(Group {
        directory: system.path(&found.directory),
        top: system.path(&found.top),
    })
}

/// Picks the mount that shows most of the way to `group`. Without one that shows our group at all,
/// the first mount's own root is the best guess: in a container it is the container's group.
fn locate(mounts: &[Mount], group: &Path) -> Option<Group> {
    let outside = |part: Component<'_>| part == Component::ParentDir;
    let shown = mounts.iter().filter_map(|mount| {
        let rest = group.strip_prefix(&mount.root).ok()?;
        let inside = !group.components().any(outside);
        inside.then_some((mount, rest))
    });
    if let Some((mount, rest)) = shown.min_by_key(|(mount, _)| mount.root.components().count()) {
        return Some(Group {
            directory: mount.point.join(rest),
            top: mount.point.clone(),
        });
    }
    let mount = mounts.first()?;
    Some(Group {
        directory: mount.point.clone(),
        top: mount.point.clone(),
    })
}

/// One line of `mountinfo`, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The folder within the file system that is mounted.
    root: PathBuf,
    /// Where it is mounted.
    point: PathBuf,
    kind: String,
    /// The options of the file system, not of the mount: for a v1 hierarchy its controllers.
    options: String,
}

impl Mount {
    /// `36 35 98:0 /root /point rw,noatime master:1 - type source rw,options`
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let root = fields.nth(3)?;
        let point = fields.next()?;
        // Any number of optional fields stands between the mount's options and the hyphen.
        fields.by_ref().find(|field| *field == "-")?;
        let kind = fields.next()?;
        let options = fields.nth(1)?;
        Some(Self {
            root: unescape(root),
            point: unescape(point),
            kind: kind.to_owned(),
            options: options.to_owned(),
        })
    }
}

/// Undoes the kernel's `\040` for the characters that would break a line into wrong fields.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                text.push(char::from(code));
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mount(root: &str, point: &str) -> Mount {
        Mount {
            root: root.into(),
            point: point.into(),
            kind: "cgroup2".into(),
            options: "rw".into(),
        }
    }

    fn found(mounts: &[Mount], group: &str) -> (String, String) {
        let group = locate(mounts, Path::new(group)).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        (text(group.directory), text(group.top))
    }

    fn pair(directory: &str, top: &str) -> (String, String) {
        (directory.into(), top.into())
    }

    #[test]
    fn a_group_is_found_however_its_hierarchy_is_mounted() {
        let host = [mount("/", "/sys/fs/cgroup")];
        let container = [mount("/docker/1f", "/sys/fs/cgroup")];
        assert_eq!(
            found(&host, "/user.slice/a"),
            pair("/sys/fs/cgroup/user.slice/a", "/sys/fs/cgroup")
        );
        // A namespace of its own: the group is called the root.
        assert_eq!(found(&host, "/"), pair("/sys/fs/cgroup/", "/sys/fs/cgroup"));
        // No namespace: the host's name, and only the container's part mounted.
        assert_eq!(
            found(&container, "/docker/1f"),
            pair("/sys/fs/cgroup/", "/sys/fs/cgroup")
        );
        assert_eq!(
            found(&container, "/docker/1f/inner"),
            pair("/sys/fs/cgroup/inner", "/sys/fs/cgroup")
        );
        // Whole path components only.
        assert_eq!(
            found(&container, "/docker/1f2"),
            pair("/sys/fs/cgroup", "/sys/fs/cgroup")
        );
        // A group outside of the namespace: no more than the mount is known.
        assert_eq!(
            found(&host, "/../other"),
            pair("/sys/fs/cgroup", "/sys/fs/cgroup")
        );
        // Of two mounts that show the group, the one that shows more groups above it.
        let both = [mount("/a/b", "/part"), mount("/", "/all")];
        assert_eq!(found(&both, "/a/b/c"), pair("/all/a/b/c", "/all"));
        assert_eq!(locate(&[], Path::new("/")), None);
    }

    #[test]
    fn a_mount_line_is_read_with_and_without_optional_fields() {
        let line = "36 35 98:0 /a\\040b /c\\134d rw,noatime master:1 shared:2 - cgroup x rw,memory";
        let read = Mount::parse(line).unwrap();
        assert_eq!(read.root, Path::new("/a b"));
        assert_eq!(read.point, Path::new("/c\\d"));
        assert_eq!((&*read.kind, &*read.options), ("cgroup", "rw,memory"));
        let bare = "36 35 98:0 / /m rw - cgroup2 cgroup2 rw";
        assert_eq!(Mount::parse(bare).unwrap().kind, "cgroup2");
        for broken in [
            "",
            "36 35",
            "36 35 98:0 / /m rw cgroup2 cgroup2 rw",
            "1 2 3 / /m rw - t",
        ] {
            assert_eq!(Mount::parse(broken), None);
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "[ -~\\\\0-9é]{0,80}", group in "/[a-z./]{0,20}") {
            let mounts: Vec<_> = Mount::parse(&line).into_iter().collect();
            locate(&mounts, Path::new(&group));
            unescape(&line);
        }
    }
}
