//! The limits of this machine, the memory budget that follows from them, and settings that warn.

use std::fs;
use std::path::Path;

use headroom_actors::memory::{BudgetReading, BudgetSource};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;

use super::check::{Check, Group};
use crate::cli::output::bytes;
use crate::descriptors::{self, Sockets};
use crate::settings::Settings;
use crate::settings::sections::RedisRoleSettings;
use crate::startup::{BudgetError, check_budget, pools, read_budget};

/// What PostgreSQL needs in /dev/shm at its start, with room for some statements.
const SHARED_MEMORY_LEAST: u64 = 16 << 20;

/// Settings that work, with something to consider.
pub(super) fn settings(settings: &Settings) -> Vec<Check> {
    const GROUP: Group = Group::Settings;
    let mut checks = vec![Check::ok(GROUP, "valid", "all settings are valid")];
    if !settings.auth.enabled && !settings.server.listen.ip().is_loopback() {
        let found = format!("{} and no authentication", settings.server.listen);
        let check = Check::warning(GROUP, "authentication", found)
            .would_fail("everyone who reaches this address can load, unload and use models")
            .remedy("bind it to 127.0.0.1, or let only a proxy with authentication reach it");
        checks.push(check);
    }
    let roles = [
        (
            "postgres.url",
            settings.postgres.url.is_some(),
            settings.postgres.embedded.enabled,
        ),
        (
            "redis.primary",
            has_server(&settings.redis.primary),
            settings.redis.embedded.enabled,
        ),
        (
            "redis.cache",
            has_server(&settings.redis.cache),
            settings.redis.embedded.enabled,
        ),
        (
            "redis.pubsub",
            has_server(&settings.redis.pubsub),
            settings.redis.embedded.enabled,
        ),
    ];
    for (name, is_configured, embedded) in roles {
        if !is_configured && !embedded {
            let check = Check::warning(
                GROUP,
                name,
                "names no server, and no private one is allowed",
            )
            .would_fail("every request that needs it gets a 503")
            .remedy(format!(
                "set {name}, or the section's embedded.enabled = true"
            ));
            checks.push(check);
        }
    }
    checks
}

pub(super) fn has_server(role: &RedisRoleSettings) -> bool {
    pools::redis::configured(role).is_some()
}

/// The limits. Without settings, those that do not depend on them.
pub(super) fn limits(settings: Option<&Settings>) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(settings) = settings {
        checks.extend(budget(settings));
    }
    checks.extend([files(settings), stalls(), swap(), shared_memory(settings)]);
    checks.extend([overcommit(), huge_pages()]);
    checks
}

const GROUP: Group = Group::Limits;

/// The control group's limit, and the budget.
fn budget(settings: &Settings) -> Vec<Check> {
    let reading = match read_budget(settings) {
        Ok(reading) => reading,
        Err(error) => {
            let check = Check::failure(GROUP, "memory budget", error.to_string())
                .would_fail("the memory supervisor does not start, so nothing can be loaded")
                .remedy("set memory.limit");
            return vec![check];
        }
    };
    vec![group_limit(&reading), effective_budget(settings, &reading)]
}

fn group_limit(reading: &BudgetReading) -> Check {
    let name = "cgroup limit";
    for (source, version) in [(BudgetSource::CgroupV2, 2), (BudgetSource::CgroupV1, 1)] {
        let candidate = reading.candidate(source);
        if let Some((limit, detail)) = candidate.and_then(|it| Some((it.bytes?, &it.detail))) {
            let found = format!("{} (version {version}, {detail})", bytes(limit));
            return Check::ok(GROUP, name, found);
        }
    }
    let details = reading.candidates.iter().filter_map(|candidate| {
        let version = match candidate.source {
            BudgetSource::CgroupV2 => 2,
            BudgetSource::CgroupV1 => 1,
            _ => return None,
        };
        Some(format!("version {version}: {}", candidate.detail))
    });
    let details: Vec<_> = details.collect();
    Check::ok(GROUP, name, format!("none ({})", details.join("; ")))
}

fn effective_budget(settings: &Settings, reading: &BudgetReading) -> Check {
    let name = "memory budget";
    let chosen = reading.candidate(reading.source);
    let detail = chosen.map_or("unknown", |candidate| candidate.detail.as_str());
    let found = format!("{} from {detail}", bytes(reading.bytes));
    match check_budget(settings) {
        Ok(()) => {}
        Err(BudgetError::Settings(error)) => {
            return Check::failure(Group::Settings, "memory", error.to_string())
                .would_fail("`headroom serve` does not start")
                .remedy("correct the setting");
        }
        // Its text says what to do.
        Err(BudgetError::TooSmall(error)) => {
            return Check::failure(Group::Settings, name, error)
                .would_fail("`headroom serve` does not start");
        }
    }
    let limit = settings.memory.limit.map(|limit| limit.as_u64());
    match limit.filter(|limit| *limit > reading.bytes) {
        Some(limit) => Check::warning(GROUP, name, found)
            .would_fail(format!("memory.limit = {} has no effect", bytes(limit)))
            .remedy("lower it, or raise the limit that is smaller"),
        None => Check::ok(GROUP, name, found),
    }
}

fn files(settings: Option<&Settings>) -> Check {
    let name = "open files";
    let hard = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) => hard,
        Err(error) => return Check::skipped(GROUP, name, error.to_string()),
    };
    let found = format!("at most {hard} (RLIMIT_NOFILE, hard)");
    let remedy = "raise the hard limit (LimitNOFILE, ulimit -Hn)";
    if hard < descriptors::LEAST {
        return Check::failure(GROUP, name, found)
            .would_fail(format!("the server needs at least {}", descriptors::LEAST))
            .remedy(remedy);
    }
    let wanted = settings.map(|settings| Sockets::wanted(&settings.server));
    let connections = wanted.map(|wanted| (wanted.connections, wanted.within(hard).connections));
    if let Some((wanted, possible)) = connections
        && possible < wanted
    {
        return Check::warning(GROUP, name, found)
            .would_fail(format!(
                "{possible} connections of clients at most, instead of server.connections_max = {wanted}"
            ))
            .remedy(remedy);
    }
    Check::ok(GROUP, name, found)
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn stalls() -> Check {
    let name = "pressure (PSI)";
    match fs::read_to_string("/proc/pressure/memory") {
        Ok(_) => Check::ok(GROUP, name, "the kernel reports stalls for want of memory"),
        Err(error) => Check::warning(GROUP, name, format!("/proc/pressure/memory: {error}"))
            .would_fail("clean-ups begin only by usage, and not when tasks stall")
            .remedy("use a kernel with CONFIG_PSI, booted with psi=1"),
    }
}

fn swap() -> Check {
    let name = "swap";
    let total = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("SwapTotal:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib << 10)
    });
    match total {
        None => Check::skipped(GROUP, name, "/proc/meminfo does not say"),
        Some(0) => Check::ok(GROUP, name, "none"),
        Some(_) if group_swaps_nothing() => Check::ok(
            GROUP,
            name,
            "none for this control group (memory.swap.max is 0)",
        ),
        Some(total) => Check::warning(GROUP, name, format!("{} on this machine", bytes(total)))
            .would_fail("swapped models answer slowly, and do not count as used")
            .remedy("set memory.swap.max = 0 (MemorySwapMax=0) for the server's control group"),
    }
}

/// Whether the control group of this process, of version 2, may not swap.
fn group_swaps_nothing() -> bool {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = group.map(|group| Path::new("/sys/fs/cgroup").join(group));
    let limits = path.iter().flat_map(|path| path.ancestors());
    let mut limits = limits.take_while(|path| path.starts_with("/sys/fs/cgroup"));
    limits.any(|path| {
        let limit = fs::read_to_string(path.join("memory.swap.max"));
        limit.is_ok_and(|limit| limit.trim() == "0")
    })
}

fn shared_memory(settings: Option<&Settings>) -> Check {
    let name = "/dev/shm";
    let is_needed =
        settings.is_none_or(|it| it.postgres.url.is_none() && it.postgres.embedded.enabled);
    let size = statvfs("/dev/shm").map(|disk| {
        let block = disk.fragment_size();
        (disk.blocks() * block, disk.blocks_available() * block)
    });
    let (found, is_enough) = match size {
        Ok((size, free)) => {
            let found = format!("{} ({} free)", bytes(size), bytes(free));
            (found, free >= SHARED_MEMORY_LEAST)
        }
        Err(error) => (error.to_string(), false),
    };
    if is_enough || !is_needed {
        return Check::ok(GROUP, name, found);
    }
    Check::warning(GROUP, name, found)
        .would_fail("the private PostgreSQL may not start")
        .remedy(format!(
            "give it {} or more (docker run --shm-size), or set postgres.url",
            bytes(SHARED_MEMORY_LEAST)
        ))
}

fn overcommit() -> Check {
    let name = "overcommit";
    match read("/proc/sys/vm/overcommit_memory").as_deref() {
        Some("2") => Check::warning(
            GROUP,
            name,
            "2: the kernel counts reserved addresses as used",
        )
        .would_fail("models' processes reserve far more than they use, and may not start")
        .remedy("sysctl vm.overcommit_memory=0"),
        Some("0") => Check::ok(GROUP, name, "0: by the kernel's heuristic"),
        Some("1") => Check::ok(GROUP, name, "1: always"),
        _ => Check::skipped(GROUP, name, "/proc/sys/vm/overcommit_memory cannot be read"),
    }
}

fn huge_pages() -> Check {
    let name = "huge pages";
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let chosen = read(path).and_then(|text| {
        let chosen = text.split_once('[')?.1.split_once(']')?.0;
        Some(chosen.to_owned())
    });
    match chosen.as_deref() {
        Some("always") => Check::warning(GROUP, name, "always (transparent huge pages)")
            .would_fail("processes use more memory than they ask for, and give less back")
            .remedy(format!("echo madvise > {path}")),
        Some(chosen) => Check::ok(GROUP, name, format!("{chosen} (transparent huge pages)")),
        None => Check::ok(GROUP, name, "this kernel has none"),
    }
}
