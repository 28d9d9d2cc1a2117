//! The overview as text.

use super::form::{Alert, Budget, Job, Jobs, Pool, Resource, Resources, Status};
use crate::cli::output::{
    Align, Cell, Style, Table, Tone, between, bytes, count, one_line, percent, phase_tone, seconds,
};

/// Resources that are listed.
const RESOURCES_MAX: usize = 20;

/// Alerts that are listed.
const ALERTS_MAX: usize = 10;

/// The characters of the bar.
const BAR: u64 = 40;

pub(super) fn render(status: &Status, url: &str, style: Style) -> String {
    let (tone, verdict) = match &*status.judged.verdict {
        "ok" => (Tone::Good, "OK"),
        "degraded" => (Tone::Warning, "DEGRADED"),
        "failing" => (Tone::Bad, "FAILING"),
        other => (Tone::Plain, other),
    };
    let server = &status.server;
    let attention = match status.alerts_total {
        0 => "nothing needs attention".to_owned(),
        total => format!("{} attention", count(total, "thing needs", "things need")),
    };
    let mut text = format!(
        "{}  {attention}\nHeadroom {} at {url}, process {}, up {}\n\n",
        style.paint(tone, &one_line(verdict)),
        one_line(&server.version),
        server.pid,
        seconds(server.uptime_seconds),
    );
    line(
        &mut text,
        "memory",
        &status.budget.line(|budget| memory(budget, style)),
    );
    line(&mut text, "resources", &status.resources.line(resources));
    line(&mut text, "pools", &pools(&status.pools, style));
    line(&mut text, "jobs", &status.jobs.line(jobs));
    if !status.alerts.is_empty() {
        text.push('\n');
        text.push_str(&alerts(status, style));
    }
    let known = status.resources.known();
    let active: Vec<_> = known
        .iter()
        .flat_map(|known| &known.resources)
        .filter(|resource| resource.phase != "cold")
        .collect();
    if !active.is_empty() {
        text.push('\n');
        text.push_str(&active_resources(&active, style));
    }
    text
}

fn line(text: &mut String, name: &str, content: &str) {
    text.push_str(&format!("{name:9}  {content}\n"));
}

fn memory(budget: &Budget, style: Style) -> String {
    let total = budget.budget_bytes.max(1);
    let part = |bytes: u64| {
        let cells = u128::from(bytes) * u128::from(BAR) / u128::from(total);
        usize::try_from(cells.min(u128::from(BAR))).unwrap_or(0)
    };
    let used = part(budget.used_bytes);
    let promised = part(budget.used_bytes.saturating_add(budget.promised_bytes)) - used;
    let free = part(total).saturating_sub(used + promised);
    let tone = match &*budget.level {
        "normal" => Tone::Good,
        "elevated" | "high" => Tone::Warning,
        _ => Tone::Bad,
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share that is shown in percent"
    )]
    let share = budget.used_bytes as f64 / total as f64;
    format!(
        "[{}{}{}] {} of {}, {} promised, level {}",
        style.paint(tone, &"#".repeat(used)),
        "+".repeat(promised),
        ".".repeat(free),
        percent(share),
        bytes(budget.budget_bytes),
        bytes(budget.promised_bytes),
        style.paint(tone, &one_line(&budget.level)),
    )
}

fn resources(resources: &Resources) -> String {
    let order = ["ready", "loading", "draining", "failed", "cold"];
    let counts = order.iter().filter_map(|phase| {
        let number = resources.phases.get(*phase).copied().unwrap_or(0);
        (number > 0 || *phase == "ready").then(|| format!("{number} {phase}"))
    });
    counts.collect::<Vec<_>>().join(", ")
}

fn pools(pools: &[Pool], style: Style) -> String {
    let pools = pools.iter().map(|pool| {
        let name = one_line(&pool.name);
        let state = pool.figures.line(|figures| {
            let tone = match &*figures.health {
                "healthy" => Tone::Good,
                "degraded" => Tone::Warning,
                "down" => Tone::Bad,
                _ => Tone::Plain,
            };
            let mut state = style.paint(tone, &one_line(&figures.health));
            if figures.in_use > 0 {
                state.push_str(&format!(
                    " ({} of {} in use)",
                    figures.in_use, pool.connections_max
                ));
            }
            if figures.waiting > 0 {
                state.push_str(&format!(" ({} wait)", figures.waiting));
            }
            state
        });
        format!("{name} {state}")
    });
    pools.collect::<Vec<_>>().join(", ")
}

fn jobs(jobs: &Jobs) -> String {
    if jobs.running == 0 {
        return "none runs".to_owned();
    }
    let running = jobs.jobs.iter().filter(|job| job.state == "running");
    let running: Vec<_> = running.map(job).collect();
    format!("{} running: {}", jobs.running, running.join("; "))
}

fn job(job: &Job) -> String {
    let description = one_line(&job.description);
    match job.progress.total {
        Some(total) => format!("{description} ({} of {total})", job.progress.done),
        None => description,
    }
}

fn alerts(status: &Status, style: Style) -> String {
    let mut table = Table::new([
        ("ALERT", Align::Left),
        ("SUBJECT", Align::Left),
        ("FOR", Align::Right),
        ("WHAT", Align::Left),
    ]);
    for alert in status.alerts.iter().take(ALERTS_MAX) {
        let Alert {
            severity,
            subject,
            text,
            since_at,
        } = alert;
        let tone = match &**severity {
            "critical" => Tone::Bad,
            _ => Tone::Warning,
        };
        let since = since_at.as_deref();
        let lasted = since.and_then(|since| between(since, &status.at));
        table.row([
            Cell::new(tone, &**severity),
            (&**subject).into(),
            lasted.map_or(String::new(), seconds).into(),
            (&**text).into(),
        ]);
    }
    let more = status.alerts_total.saturating_sub(ALERTS_MAX);
    table.render(style, "") + &and_more(more, "headroom status --json")
}

fn active_resources(active: &[&Resource], style: Style) -> String {
    let mut table = Table::new([
        ("RESOURCE", Align::Left),
        ("KIND", Align::Left),
        ("PHASE", Align::Left),
        ("MEMORY", Align::Right),
        ("USERS", Align::Right),
        ("WAITING", Align::Right),
        ("HITS", Align::Right),
        ("MISSES", Align::Right),
        ("UNLOADED IN", Align::Right),
    ]);
    for resource in active.iter().take(RESOURCES_MAX) {
        let left = match (resource.pinned, resource.ttl_left_seconds) {
            (true, _) => "pinned".to_owned(),
            (false, left) => left.map_or(String::new(), seconds),
        };
        table.row([
            (&*resource.name).into(),
            (&*resource.kind).into(),
            Cell::new(phase_tone(&resource.phase), &*resource.phase),
            bytes(resource.reserved_bytes.max(resource.measured_bytes)).into(),
            resource.leases.to_string().into(),
            resource.waiters.to_string().into(),
            resource.hits_total.to_string().into(),
            resource.misses_total.to_string().into(),
            left.into(),
        ]);
    }
    let more = active.len().saturating_sub(RESOURCES_MAX);
    table.render(style, "") + &and_more(more, "headroom models list --url ...")
}

fn and_more(more: usize, command: &str) -> String {
    match more {
        0 => String::new(),
        more => format!("and {more} more: `{command}`\n"),
    }
}
