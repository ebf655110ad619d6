//! How much memory this process may use: the machine's, or the limit of its control group if that is less.
//!
//! Files as in the kernel's `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`. A limit of any group above
//! that of the process applies too, so all of them are read. Inside a container the path in `/proc/self/cgroup` may be that
//! of the outside, which is not mounted; its groups are skipped, and the root of the mount is that of the container.

use std::{fs, path::Path};

/// The machine's memory or the least limit of the process's control groups, in bytes. `None` if none of them can be read.
pub fn memory() -> Option<u64> {
    memory_below(Path::new("/"))
}

/// As [`memory`], with another root folder.
fn memory_below(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| least_limit(root, line));
    limits.chain(machine(root)).min()
}

/// The machine's memory, from `/proc/meminfo`.
fn machine(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The least limit of the group in a line of `/proc/self/cgroup` (`number:controllers:path`) and of those above it.
fn least_limit(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (mount, files): (_, &[&str]) = match (number, controllers) {
        // `high` is where the kernel begins to slow the group down and to take its pages away.
        ("0", "") => ("sys/fs/cgroup", &["memory.max", "memory.high"]),
        (_, controllers) if controllers.split(',').any(|controller| controller == "memory") => {
            ("sys/fs/cgroup/memory", &["memory.limit_in_bytes"])
        }
        _ => return None,
    };
    let group = Path::new(path.trim_start_matches('/'));
    let folders = group.ancestors().map(|above| root.join(mount).join(above));
    // A limit that is not set is `max` in version 2, and in version 1 more than any machine has.
    folders.flat_map(|folder| files.iter().map(move |file| folder.join(file))).filter_map(|file| number_in(&file)).min()
}

fn number_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        8000 kB\nMemFree:  1 kB\n");

    fn memory_of(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        memory_below(root.path())
    }

    #[test]
    fn without_a_limit_it_is_the_machines() {
        assert_eq!(memory_of(&[MEMINFO]), Some(8000 << 10));
        let unlimited = [
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/a\n0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(memory_of(&unlimited), Some(8000 << 10));
        assert_eq!(memory_of(&[]), None);
    }

    #[test]
    fn the_least_limit_of_all_groups_above_counts() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/system.slice/wasaga.service\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "3000000\n"),
            ("sys/fs/cgroup/system.slice/wasaga.service/memory.max", "5000000\n"),
            ("sys/fs/cgroup/system.slice/wasaga.service/memory.high", "4000000\n"),
        ];
        assert_eq!(memory_of(&files), Some(3_000_000));
        assert_eq!(memory_of(&[&files[..2], &files[3..]].concat()), Some(4_000_000));
    }

    #[test]
    fn in_a_container_the_root_of_the_mount_counts() {
        let v2 = [MEMINFO, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "1000\n")];
        assert_eq!(memory_of(&v2), Some(1000));
        let v1 = [
            MEMINFO,
            ("proc/self/cgroup", "5:cpu:/\n4:hugetlb,memory:/docker/0123\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n"),
        ];
        assert_eq!(memory_of(&v1), Some(2000));
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(memory().unwrap() > 64 << 20);
    }
}
