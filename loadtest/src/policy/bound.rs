//! A lower bound on the reload time of every policy, whether it knows the future or not.
//!
//! The time between two successive requests for the same model is an interval. If the model stays
//! loaded, the second request is a hit and saves its reload; otherwise it is a load. At each request
//! the requested model is loaded, and the models that stay must fit beside it. So, with x = 1 for
//! intervals that are kept:
//!
//! > maximise the sum of reload × x, such that at each request r: the sum over the intervals around r
//! > of bytes × x ≤ budget − bytes of r's model.
//!
//! Every policy's run is a solution. With parts of intervals (0 ≤ x ≤ 1) it is a linear program, which
//! saves at least as much, and a minimum-cost flow: D. S. Berger, N. Beckmann, M.
//! Harchol-Balter, "Practical Bounds on Optimal Caching with Variable Object Sizes", SIGMETRICS 2018
//! ("FOO"). Two things differ: savings are seconds, not one per hit, and each requested model must be
//! loaded, which makes the bound higher.
//!
//! The bound holds even if the flow is not optimal. For any prices p ≥ 0 of a byte at a request, the
//! savings are at most the sum of price × capacity over all requests, plus, over all intervals, the
//! part of the saving above bytes × the prices that the interval spans (weak duality). The flow only
//! finds the prices with the lowest bound.

use super::flow::{Jump, highest_profit};
use super::trace::Trace;

/// Profits per byte are whole numbers of this part of the highest one.
const STEPS: f64 = 1e12;

/// The solution of the relaxed problem.
pub(crate) struct Bound {
    /// The least seconds that loads can take.
    pub(crate) seconds: f64,
    /// How much of the interval that begins at each request is kept, from 0 to 1.
    pub(crate) kept: Vec<f64>,
}

/// The time between two successive requests for one model, `from` and `to`.
struct Interval {
    from: usize,
    to: usize,
    bytes: u64,
    seconds: f64,
}

/// The bound for `trace` within `budget` bytes, which hold each of its models alone.
pub(crate) fn lower_bound(trace: &Trace, budget: u64) -> Bound {
    // A budget above all models together changes nothing.
    let budget = budget.min(trace.bytes());
    let intervals = intervals(trace);
    let capacities: Vec<i64> = (0..trace.requests.len())
        .map(|at| whole(budget.saturating_sub(trace.bytes_at(at))))
        .collect();
    let unit = intervals.iter().map(Interval::density).fold(0.0, f64::max) / STEPS;
    // There is no request within an interval between neighbours, so it is always kept.
    let jumps: Vec<_> = intervals
        .iter()
        .filter(|it| it.to > it.from + 1)
        .map(|it| Jump {
            from: it.from + 1,
            to: it.to,
            capacity: whole(it.bytes),
            profit: steps(it.density() / unit),
        })
        .collect();
    let flow = highest_profit(&capacities, &jumps);
    let mut kept = vec![0.0; trace.requests.len()];
    for interval in &intervals {
        kept[interval.from] = 1.0;
    }
    for (jump, amount) in jumps.iter().zip(&flow.amounts) {
        kept[jump.from - 1] = real(*amount) / real(jump.capacity);
    }
    let all: f64 = (0..trace.requests.len())
        .map(|at| trace.seconds_at(at))
        .sum();
    Bound {
        seconds: all - saved_at_most(&intervals, &capacities, &flow.prices, unit),
        kept,
    }
}

/// The most that any policy saves, by weak duality. `unit` is the value of one step of a price.
fn saved_at_most(intervals: &[Interval], capacities: &[i64], prices: &[i64], unit: f64) -> f64 {
    let mut total: i64 = 0;
    let mut before = vec![0];
    let mut capacity_cost = 0.0;
    for (price, capacity) in prices.iter().zip(capacities) {
        let price = (*price).max(0);
        capacity_cost += real(price) * unit * real(*capacity);
        total += price;
        before.push(total);
    }
    let excess = intervals.iter().map(|it| {
        let spanned = real(before[it.to] - before[it.from + 1]) * unit;
        (it.seconds - spanned * real(whole(it.bytes))).max(0.0)
    });
    capacity_cost + excess.sum::<f64>()
}

fn intervals(trace: &Trace) -> Vec<Interval> {
    let next = trace.next_uses();
    let ends = next.iter().enumerate();
    ends.filter_map(|(from, to)| {
        let to = (*to)?;
        Some(Interval {
            from,
            to,
            bytes: trace.bytes_at(from),
            seconds: trace.seconds_at(to),
        })
    })
    .collect()
}

impl Interval {
    /// Seconds saved per byte.
    fn density(&self) -> f64 {
        self.seconds / real(whole(self.bytes))
    }
}

fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn real(number: i64) -> f64 {
    number as f64
}

fn steps(number: f64) -> i64 {
    number as i64
}
