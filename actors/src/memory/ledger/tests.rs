use super::super::probe::ProcessUsage;
use super::*;
use proptest::prelude::*;

const SERVER: i32 = 1;
const ZYGOTE: i32 = 2;

impl Ledger {
    fn new(budget: u64) -> Self {
        Self {
            budget,
            ..Self::default()
        }
    }
}

fn short(need: u64, free: u64, budget: u64) -> BudgetError {
    BudgetError::Short { need, free, budget }
}

fn usage(processes: &[(i32, i32, u64)], shared_files: u64) -> TreeUsage {
    let processes = processes.iter().map(|&(pid, parent, pss)| {
        let usage = ProcessUsage {
            parent,
            name: String::new(),
            pss,
            rss: pss,
            private_dirty: pss,
            anonymous: pss,
            estimated: false,
        };
        (pid, usage)
    });
    TreeUsage {
        own: SERVER,
        processes: processes.collect(),
        shared_files,
    }
}

#[test]
fn claims_are_granted_up_to_the_last_byte() {
    let mut ledger = Ledger::new(100);
    ledger.apply_reading(usage(&[(SERVER, 0, 10)], 5), None);
    let first = ledger.try_reserve("a", 60, u64::MAX).unwrap();
    let refusal = ledger.try_reserve("b", 26, u64::MAX).unwrap_err();
    assert_eq!(refusal, short(26, 25, 100));
    ledger.try_reserve("b", 25, u64::MAX).unwrap();
    assert_eq!(ledger.free(), 0);
    ledger.release(first);
    assert_eq!(ledger.free(), 60);
    assert!(ledger.try_reserve("huge", u64::MAX, u64::MAX).is_err());
}

#[test]
fn an_entry_counts_with_the_larger_of_reserved_and_measured() {
    let mut ledger = Ledger::new(1000);
    let id = ledger.try_reserve("a", 100, u64::MAX).unwrap();
    ledger.apply_reading(usage(&[(SERVER, 0, 10), (3, SERVER, 40)], 0), None);
    assert_eq!((ledger.baseline, ledger.projected()), (50, 150));
    // Attaching moves the measured bytes without a new reading.
    ledger.attach(id, 3);
    assert_eq!((ledger.baseline, ledger.projected()), (10, 110));
    ledger.apply_reading(usage(&[(SERVER, 0, 10), (3, SERVER, 140)], 0), None);
    assert_eq!((ledger.measured(id), ledger.projected()), (140, 150));
    ledger.set_reserved(id, 120);
    assert_eq!((ledger.reserved(id), ledger.projected()), (120, 150));
    // After the release, the process's memory counts until a reading shows that it has ended.
    ledger.release(id);
    assert_eq!((ledger.baseline, ledger.projected()), (150, 150));
    assert_eq!((ledger.reserved(id), ledger.measured(id)), (0, 0));
    ledger.apply_reading(usage(&[(SERVER, 0, 10)], 0), None);
    assert_eq!(ledger.projected(), 10);
}

#[test]
fn a_process_may_use_what_is_free_and_what_can_be_evicted() {
    let mut ledger = Ledger::new(1000);
    let own = ledger.try_reserve("own", 100, u64::MAX).unwrap();
    let other = ledger.try_reserve("other", 300, u64::MAX).unwrap();
    ledger.attach(own, 3);
    ledger.attach(other, 4);
    let family = [(SERVER, 0, 50), (3, SERVER, 80), (4, SERVER, 250)];
    ledger.apply_reading(usage(&family, 0), None);
    // The other entry reserved 300, whether or not it uses them.
    assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50 - 300);
    let uses = Arc::new(AtomicUsize::new(0));
    ledger.count_uses(other, Some(Arc::clone(&uses)));
    assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50);
    ledger.count_uses(other, None);
    assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50 - 300);
    ledger.count_uses(other, Some(Arc::clone(&uses)));
    uses.store(1, Ordering::Release);
    assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50 - 300);
    // It may always use its own reservation.
    assert_eq!(ledger.usage_max(own, 3, 200), 100);
    ledger
        .try_reserve_buffer("buffers", 100, u64::MAX, u64::MAX)
        .unwrap();
    assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50 - 300 - 100);
    // Its own measurement changes nothing; the entry's other processes do.
    ledger.attach(own, 5);
    let family = [
        (SERVER, 0, 50),
        (3, SERVER, 500),
        (4, SERVER, 250),
        (5, SERVER, 60),
    ];
    ledger.apply_reading(usage(&family, 0), None);
    assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50 - 300 - 100 - 60);
    ledger.release(own);
    assert_eq!(ledger.usage_max(own, 3, 900), 0);
}

#[test]
fn a_process_belongs_to_the_entry_of_its_nearest_attached_ancestor() {
    let mut ledger = Ledger::new(1000);
    let zygote = ledger.try_reserve("zygote", 0, u64::MAX).unwrap();
    let host = ledger.try_reserve("host", 0, u64::MAX).unwrap();
    ledger.attach(zygote, ZYGOTE);
    let family = [
        (SERVER, 0, 1),
        (ZYGOTE, SERVER, 10),
        (3, ZYGOTE, 100),
        (4, 3, 200),
    ];
    ledger.apply_reading(usage(&family, 0), None);
    assert_eq!((ledger.measured(zygote), ledger.measured(host)), (310, 0));
    ledger.attach(host, 3);
    assert_eq!((ledger.measured(zygote), ledger.measured(host)), (10, 300));
    ledger.detach(zygote, 3);
    assert_eq!(
        ledger.measured(host),
        300,
        "only its own entry can detach a process"
    );
    ledger.detach(host, 3);
    // It is ending. Its memory must not count as growth of the zygote.
    assert_eq!((ledger.measured(zygote), ledger.baseline), (10, 301));
    ledger.apply_reading(usage(&family, 0), None);
    assert_eq!((ledger.measured(zygote), ledger.baseline), (10, 301));
    ledger.apply_reading(usage(&family[..2], 0), None);
    // Another process has its number now.
    ledger.apply_reading(usage(&family[..3], 0), None);
    assert_eq!(ledger.measured(zygote), 110);
    assert_eq!(ledger.baseline, 1);
    assert_eq!(ledger.entries()[0].processes, [ZYGOTE]);
}

#[test]
fn only_a_release_counts_as_memory_given_back() {
    let mut ledger = Ledger::new(1000);
    let id = ledger.try_reserve("a", 1, u64::MAX).unwrap();
    ledger.attach(id, 3);
    assert!(ledger.is_loading());
    ledger.set_reserved(id, 2);
    assert!(!ledger.is_loading());
    assert_eq!(ledger.given_back, 0);
    ledger.release(id);
    assert_eq!(ledger.given_back, 1);
    ledger.release(id);
    ledger.attach(id, 4);
    ledger.set_reserved(id, 5);
    assert_eq!((ledger.given_back, ledger.projected()), (1, 0));
}

#[test]
fn a_grant_stays_within_its_ceiling() {
    let mut ledger = Ledger::new(100);
    ledger.try_reserve("a", 70, 80).unwrap();
    let refusal = ledger.try_reserve("b", 11, 80).unwrap_err();
    assert_eq!(refusal, short(11, 10, 100));
    ledger.try_reserve("b", 11, 85).unwrap();
    assert_eq!(ledger.try_reserve("c", 1, 80), Err(short(1, 0, 100)));
    // No ceiling is above the budget.
    assert_eq!(ledger.try_reserve("c", 20, 1000), Err(short(20, 19, 100)));
}

#[test]
fn a_loaded_entry_reserves_its_private_peak_and_a_loading_one_does_not() {
    let mut ledger = Ledger::new(1000);
    let id = ledger.try_reserve("a", 100, 1000).unwrap();
    ledger.attach(id, 3);
    let grown = |bytes| usage(&[(SERVER, 0, 10), (3, SERVER, bytes)], 0);
    ledger.apply_reading(grown(300), None);
    assert_eq!((ledger.reserved(id), ledger.peak(id)), (100, 300));
    ledger.set_reserved(id, 120);
    ledger.apply_reading(grown(200), None);
    ledger.apply_reading(grown(150), None);
    assert_eq!((ledger.reserved(id), ledger.peak(id)), (200, 300));
    assert_eq!(ledger.projected(), 210);
    // The peak outlives the process.
    ledger.detach(id, 3);
    assert_eq!(ledger.peak(id), 300);
    // A new process takes its place.
    ledger.attach(id, 4);
    assert_eq!((ledger.reserved(id), ledger.peak(id)), (120, 0));
    ledger.attach(id, 5);
    let both = [(SERVER, 0, 10), (4, SERVER, 130), (5, SERVER, 20)];
    ledger.apply_reading(usage(&both, 0), None);
    ledger.detach(id, 5);
    ledger.attach(id, 6);
    assert_eq!(ledger.reserved(id), 150, "one of several was replaced");
}

#[test]
fn pages_shared_by_many_hosts_are_reserved_once() {
    let mut ledger = Ledger::new(1000);
    // Each host has 20 private bytes and an equal part of 40 shared ones.
    let hosts = |count: u64| {
        let share = 20 + 40 / count;
        let mut usage = usage(&[(SERVER, 0, 10)], 0);
        for pid in 0..count {
            let pid = 10 + i32::try_from(pid).unwrap();
            let host = ProcessUsage {
                parent: SERVER,
                pss: share,
                private_dirty: 20,
                ..usage.processes[&SERVER].clone()
            };
            usage.processes.insert(pid, host);
        }
        usage
    };
    for count in 1..=4 {
        let id = ledger.try_reserve("host", 60, 1000).unwrap();
        ledger.attach(id, 9 + count);
        ledger.apply_reading(hosts(u64::try_from(count).unwrap()), None);
        ledger.set_reserved(id, ledger.measured(id));
    }
    ledger.apply_reading(hosts(4), None);
    assert_eq!(ledger.reserved_total(), 4 * 20 + 40);
    assert_eq!(ledger.projected(), 10 + 4 * 20 + 40);
}

#[test]
fn usage_of_the_group_beyond_its_processes_counts() {
    let mut ledger = Ledger::new(1000);
    let processes = [(SERVER, 0, 100)];
    ledger.apply_reading(usage(&processes, 50), Some(180));
    assert_eq!((ledger.used(), ledger.baseline), (180, 180));
    // A group usage below that of the processes changes nothing.
    ledger.apply_reading(usage(&processes, 50), Some(120));
    assert_eq!((ledger.used(), ledger.free()), (150, 850));
}

#[test]
fn buffers_of_one_kind_stay_within_their_own_bound() {
    let mut ledger = Ledger::new(1000);
    ledger.try_reserve_buffer("answers", 60, 100, 900).unwrap();
    let refusal = ledger
        .try_reserve_buffer("answers", 41, 100, 900)
        .unwrap_err();
    assert_eq!(refusal, short(41, 40, 100));
    ledger.try_reserve_buffer("answers", 40, 100, 900).unwrap();
    ledger
        .try_reserve_buffer("bodies", 41, u64::MAX, 900)
        .unwrap();
    ledger.release_buffer("answers", 60, 0);
    ledger.try_reserve_buffer("answers", 60, 100, 900).unwrap();
}

#[test]
fn a_buffer_counts_once_whether_or_not_it_is_filled() {
    let mut ledger = Ledger::new(1000);
    ledger.apply_reading(usage(&[(SERVER, 0, 100)], 0), None);
    ledger
        .try_reserve_buffer("bodies", 400, u64::MAX, 900)
        .unwrap();
    let refusal = ledger.try_reserve_buffer("bodies", 401, u64::MAX, 900);
    assert_eq!(refusal, Err(short(401, 400, 1000)));
    ledger.fill_buffer("bodies", 300);
    assert_eq!(ledger.projected(), 500, "filled, but in no reading yet");
    ledger.begin_reading();
    ledger.fill_buffer("bodies", 50);
    ledger.apply_reading(usage(&[(SERVER, 0, 400)], 0), None);
    assert_eq!(ledger.projected(), 500);
    assert_eq!(ledger.accounts()[0].filled_bytes, 350);
    // After the release it counts until the next reading.
    ledger.release_buffer("bodies", 400, 350);
    assert_eq!(ledger.projected(), 400);
    ledger.apply_reading(usage(&[(SERVER, 0, 100)], 0), None);
    assert_eq!(ledger.projected(), 100);
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(u64),
    Settle(usize, u64),
    Attach(usize, i32),
    Detach(usize, i32),
    Release(usize),
    Measure(Vec<(i32, i32, u64)>, u64, Option<u64>),
    ReserveBuffer(u64, u64),
    ReleaseBuffer(usize),
    Budget(u64),
}

fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..2000, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let process = (1i32..9, 0i32..9, bytes());
    let step = prop_oneof![
        4 => bytes().prop_map(Step::Reserve),
        2 => (0usize..6, bytes()).prop_map(|(entry, bytes)| Step::Settle(entry, bytes)),
        3 => (0usize..6, 1i32..9).prop_map(|(entry, pid)| Step::Attach(entry, pid)),
        1 => (0usize..6, 1i32..9).prop_map(|(entry, pid)| Step::Detach(entry, pid)),
        2 => (0usize..6).prop_map(Step::Release),
        3 => (prop::collection::vec(process, 0..6), bytes(), prop::option::of(bytes()))
            .prop_map(|(processes, files, group)| Step::Measure(processes, files, group)),
        3 => (bytes(), bytes()).prop_map(|(held, filled)| Step::ReserveBuffer(held, filled)),
        2 => (0usize..6).prop_map(Step::ReleaseBuffer),
        1 => bytes().prop_map(Step::Budget),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn no_grant_passes_the_budget(steps in steps()) {
        let mut ledger = Ledger::new(5000);
        let mut live: Vec<EntryId> = Vec::new();
        let mut held: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            let nth = |index: usize, live: &[EntryId]| live.get(index).copied();
            let before = ledger.projected();
            match step {
                Step::Reserve(bytes) => match ledger.try_reserve("x", bytes, u64::MAX) {
                    Ok(id) => {
                        prop_assert!(ledger.projected() <= ledger.budget);
                        prop_assert_eq!(ledger.projected(), before + bytes);
                        prop_assert!(!live.contains(&id));
                        live.push(id);
                    }
                    Err(BudgetError::Short { free, .. }) => {
                        prop_assert!(bytes > free || before > ledger.budget);
                        prop_assert_eq!(ledger.projected(), before);
                    }
                    Err(BudgetError::Unavailable) => prop_assert!(false),
                },
                Step::Settle(index, bytes) => if let Some(id) = nth(index, &live) {
                    let smaller = bytes <= ledger.reserved(id);
                    ledger.set_reserved(id, bytes);
                    prop_assert_eq!(ledger.reserved(id), bytes);
                    prop_assert!(!smaller || ledger.projected() <= before);
                },
                Step::Attach(index, pid) => if let Some(id) = nth(index, &live) {
                    ledger.attach(id, pid);
                },
                Step::Detach(index, pid) => if let Some(id) = nth(index, &live) {
                    ledger.detach(id, pid);
                },
                Step::Release(index) => if index < live.len() {
                    ledger.release(live.swap_remove(index));
                    prop_assert!(ledger.projected() <= before);
                },
                Step::Measure(processes, files, group) => {
                    ledger.begin_reading();
                    ledger.apply_reading(usage(&processes, files), group);
                    prop_assert!(ledger.used() >= group.unwrap_or(0));
                }
                Step::ReserveBuffer(bytes, filled) => match ledger.try_reserve_buffer("b", bytes, u64::MAX, 4000) {
                    Ok(()) => {
                        prop_assert!(ledger.projected() <= ledger.budget.min(4000));
                        ledger.fill_buffer("b", filled.min(bytes));
                        held.push((bytes, filled.min(bytes)));
                    }
                    Err(_) => prop_assert_eq!(ledger.projected(), before),
                },
                Step::ReleaseBuffer(index) => if index < held.len() {
                    let (bytes, filled) = held.swap_remove(index);
                    ledger.release_buffer("b", bytes, filled);
                    prop_assert!(ledger.projected() <= before);
                },
                Step::Budget(bytes) => ledger.budget = bytes,
            }
            // All measured memory counts exactly once.
            let measured = live.iter().map(|id| u128::from(ledger.measured(*id))).sum::<u128>();
            let counted = u128::from(ledger.baseline) + measured;
            let processes = ledger.usage.processes.values();
            let real = processes.map(|process| u128::from(process.pss)).sum::<u128>()
                + u128::from(ledger.usage.shared_files)
                + u128::from(ledger.outside);
            prop_assert!(counted == real || real > u128::from(u64::MAX));
            prop_assert!(ledger.projected() >= ledger.used());
            prop_assert_eq!(ledger.entries().len(), live.len());
        }
        for id in live {
            ledger.release(id);
        }
        for (bytes, filled) in held {
            ledger.release_buffer("b", bytes, filled);
        }
        prop_assert_eq!(ledger.reserved_total(), 0);
        prop_assert_eq!(ledger.projected(), ledger.used());
    }
}
