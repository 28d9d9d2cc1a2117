//! The folder of this process's control group. `/proc/self/cgroup` names the group, and
//! `/proc/self/mountinfo` says where its hierarchy is mounted.
//!
//! In a container the two can disagree: the name can be that of the host, while only the container's
//! part of the hierarchy is mounted. With a cgroup namespace, both begin at the container's group.

use std::path::{Component, Path, PathBuf};

use super::{ProbeError, System, read_text};

/// The path of this process's control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CgroupPath {
    /// The group's folder.
    pub(super) directory: PathBuf,
    /// The mount point of its hierarchy, which is `directory` or a folder above it.
    pub(super) mount_point: PathBuf,
}

impl CgroupPath {
    /// A file of the group.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Finds the control group in one hierarchy. `is_hierarchy` selects its line in `/proc/self/cgroup`
/// by number and controllers; `is_mount` selects its mounts by file system type and options.
pub(super) fn find(
    system: &System,
    is_hierarchy: impl Fn(&str, &str) -> bool,
    is_mount: impl Fn(&str, &str) -> bool,
) -> Result<CgroupPath, ProbeError> {
    let groups = read_text(&system.own("cgroup"))?;
    let group = groups
        .lines()
        .find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers) = (fields.next()?, fields.next()?);
            let path = fields.next().filter(|path| path.starts_with('/'))?;
            is_hierarchy(number, controllers).then_some(path)
        })
        .ok_or(ProbeError::NoGroup)?;
    let mounts = read_text(&system.own("mountinfo"))?;
    let mounts: Vec<_> = mounts
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| is_mount(&mount.kind, &mount.options))
        .collect();
    let path = locate(&mounts, Path::new(group)).ok_or(ProbeError::NotMounted)?;
    Ok(CgroupPath {
        directory: system.path(&path.directory),
        mount_point: system.path(&path.mount_point),
    })
}

/// Picks the mount that contains most of the path to `group`. If no mount contains the group, the
/// root of the first mount is the best guess: in a container it is the container's group.
fn locate(mounts: &[Mount], group: &Path) -> Option<CgroupPath> {
    let is_parent = |part: Component<'_>| part == Component::ParentDir;
    let containing = mounts.iter().filter_map(|mount| {
        let rest = group.strip_prefix(&mount.root).ok()?;
        let is_inside = !group.components().any(is_parent);
        is_inside.then_some((mount, rest))
    });
    let tallest = containing.min_by_key(|(mount, _)| mount.root.components().count());
    let (mount, rest) = tallest.or_else(|| Some((mounts.first()?, Path::new(""))))?;
    Some(CgroupPath {
        directory: mount.point.join(rest),
        mount_point: mount.point.clone(),
    })
}

/// The fields of one line of `mountinfo` that are used here.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The folder within the file system that is mounted.
    root: PathBuf,
    /// Where it is mounted.
    point: PathBuf,
    kind: String,
    /// The options of the file system, not of the mount. For version 1 they name the controllers.
    options: String,
}

impl Mount {
    /// `36 35 98:0 /root /point rw,noatime master:1 - type source rw,options`
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let root = fields.nth(3)?;
        let point = fields.next()?;
        // Any number of optional fields can precede the hyphen.
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

/// Decodes the kernel's octal escapes, such as `\040` for a space.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let escape = part.split_at_checked(3);
        match escape.and_then(|(code, rest)| Some((u8::from_str_radix(code, 8).ok()?, rest))) {
            Some((code, rest)) => text.extend([&*char::from(code).to_string(), rest]),
            None => text.extend(["\\", part]),
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

    fn located(mounts: &[Mount], group: &str) -> (String, String) {
        let group = locate(mounts, Path::new(group)).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        (text(group.directory), text(group.mount_point))
    }

    fn pair(directory: &str, mount_point: &str) -> (String, String) {
        (directory.into(), mount_point.into())
    }

    #[test]
    fn a_group_is_located_however_its_hierarchy_is_mounted() {
        let host = [mount("/", "/sys/fs/cgroup")];
        let container = [mount("/docker/1f", "/sys/fs/cgroup")];
        assert_eq!(
            located(&host, "/user.slice/a"),
            pair("/sys/fs/cgroup/user.slice/a", "/sys/fs/cgroup")
        );
        // With a cgroup namespace the group is named `/`.
        assert_eq!(
            located(&host, "/"),
            pair("/sys/fs/cgroup/", "/sys/fs/cgroup")
        );
        // Without one: the host's name, and only the container's part is mounted.
        assert_eq!(
            located(&container, "/docker/1f"),
            pair("/sys/fs/cgroup/", "/sys/fs/cgroup")
        );
        assert_eq!(
            located(&container, "/docker/1f/inner"),
            pair("/sys/fs/cgroup/inner", "/sys/fs/cgroup")
        );
        // Whole path components only.
        assert_eq!(
            located(&container, "/docker/1f2"),
            pair("/sys/fs/cgroup/", "/sys/fs/cgroup")
        );
        // A group outside of the namespace: only the mount is known.
        assert_eq!(
            located(&host, "/../other"),
            pair("/sys/fs/cgroup/", "/sys/fs/cgroup")
        );
        // Of two mounts that contain the group, the one with more groups above it.
        let both = [mount("/a/b", "/part"), mount("/", "/all")];
        assert_eq!(located(&both, "/a/b/c"), pair("/all/a/b/c", "/all"));
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
        fn no_line_causes_a_panic(line in "[ -~\\\\0-9é]{0,80}", group in "/[a-z./]{0,20}") {
            let mounts: Vec<_> = Mount::parse(&line).into_iter().collect();
            locate(&mounts, Path::new(&group));
            unescape(&line);
        }
    }
}
