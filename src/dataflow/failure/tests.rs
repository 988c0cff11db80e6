use proptest::prelude::*;

use super::*;
use crate::model::Position;

const ZERO: &str = "division by zero";

fn expression() -> Arc<str> {
    "a / b".into()
}

fn change(reason: &str, position: Option<Position>, diff: i64) -> FailureChange {
    let (expression, reason) = (expression(), reason.to_string());
    FailureChange { expression, reason, position, event_type: None, diff }
}

fn shown(failures: &Failures) -> Vec<(i64, Vec<Position>)> {
    failures.list().into_iter().map(|f| (f.count, f.positions)).collect()
}

/// All pages with so many letters each, as expression and reason.
fn paged(failures: &Failures, filter: &FailureFilter, limit: usize) -> Vec<(String, String, i64)> {
    let mut all: Vec<(String, String, i64)> = Vec::new();
    loop {
        let after = all.last().map(|(e, r, _)| (e.clone(), r.clone()));
        let after = after.as_ref().map(|(e, r)| (e.as_str(), r.as_str()));
        let page = failures.page(filter, after, limit, 1);
        if page.is_empty() {
            return all;
        }
        all.extend(page.into_iter().map(|f| (f.expression, f.reason, f.count)));
    }
}

fn dismiss(
    failures: &Failures,
    from: Option<Position>,
    to: Option<Position>,
    head: Position,
) -> i64 {
    let filter = FailureFilter { from, to, ..FailureFilter::default() };
    let (count, dismissals) = failures.dismissals(&filter, head);
    failures.dismiss(&dismissals);
    count
}

#[test]
fn dismissed_failures_stay_hidden_and_later_ones_are_shown() {
    let failures = Failures::default();
    let record = |failures: &Failures, at, diff| failures.record(&change(ZERO, at, diff));
    for position in [3, 5, 9] {
        record(&failures, Some(position), 1);
    }
    record(&failures, None, 2);
    assert_eq!(shown(&failures), [(5, vec![3, 5, 9])]);
    assert_eq!(dismiss(&failures, Some(1), Some(5), 9), 2);
    assert_eq!(shown(&failures), [(3, vec![9])]);
    let (count, rest) = failures.dismissals(&FailureFilter::default(), 9);
    assert_eq!(count, 3);
    failures.dismiss(&rest);
    assert_eq!((shown(&failures), failures.count()), (Vec::new(), 0));
    record(&failures, Some(11), 1);
    record(&failures, None, 1);
    record(&failures, Some(3), -1);
    assert_eq!((shown(&failures), failures.count()), (vec![(2, vec![11])], 2));
    // The same history, seen after the dismissal, as after a restart.
    let memory = Arc::new(FailureMemory::new(usize::MAX));
    let again = Failures::new(&[], &rest, &memory);
    for position in [3, 5, 9, 11] {
        record(&again, Some(position), 1);
    }
    record(&again, None, 3);
    assert_eq!((shown(&again), again.count()), (vec![(2, vec![11])], 2));
}

#[test]
fn further_reasons_are_counted_where_there_is_no_room() {
    let memory = Arc::new(FailureMemory::new(0));
    let failures = Failures::new(&[], &[], &memory);
    let reason = |n: u64| format!("cannot cast '{n}' to INT");
    let (rows, head) = (100_000, 100_000);
    for n in 1..=rows {
        failures.record(&change(&reason(n), Some(n), 1));
    }
    assert_eq!(failures.count(), rows as i64);
    let listed = failures.list();
    assert!(listed.len() > 5_000 && listed.len() < 50_000, "{}", listed.len());
    let sum: i64 = listed.iter().map(|failure| failure.count).sum();
    assert_eq!(sum, rows as i64);
    let last = listed.last().unwrap();
    assert_eq!((last.reason.as_str(), last.positions.len()), (FURTHER_REASONS, 0));
    assert_eq!(paged(&failures, &FailureFilter::default(), 1000).len(), listed.len());
    assert!(memory.bytes.load(Ordering::Relaxed) < VIEW_BYTES_MIN + 1024);
    // In whatever order rows end, what is left is right.
    for n in (1..=rows).rev().filter(|n| n % 3 == 0) {
        failures.record(&change(&reason(n), Some(n), -1));
    }
    assert_eq!(failures.count(), (rows - rows / 3) as i64);
    let left = failures.count();
    assert_eq!(dismiss(&failures, None, None, head), left);
    assert_eq!((failures.count(), shown(&failures)), (0, Vec::new()));
    failures.record(&change(&reason(1), Some(1), -1));
    failures.record(&change(&reason(1), Some(head + 1), 1));
    assert_eq!(shown(&failures), [(1, vec![head + 1])]);
    drop(failures);
    assert_eq!(memory.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn types_of_a_chunk_are_kept_until_every_view_is_through_with_it() {
    let chunk = |first: Position| {
        let mut types = ChunkTypes::default();
        // No two successive events of one type.
        for position in first..first + 100_000 {
            types.push(position, &if position % 2 == 0 { "A" } else { "B" }.into());
        }
        types
    };
    for n in 0..10 {
        chunk(n * 100_000 + 1).keep(n + 1, || 1);
    }
    assert_eq!(super::recent::type_of(50_000).as_deref(), Some("A"));
    assert_eq!(super::recent::type_of(950_001).as_deref(), Some("B"));
    chunk(1_000_001).keep(11, || 10);
    assert_eq!(super::recent::type_of(50_000), None);
    assert_eq!(super::recent::type_of(950_001).as_deref(), Some("B"));
}

#[test]
fn events_are_told_apart_by_their_types() {
    let failures = Failures::default();
    let mut types = ChunkTypes::default();
    for (position, event_type) in [(4, "A"), (5, "A"), (6, "B"), (8, "A")] {
        types.push(position, &event_type.into());
    }
    types.keep(1, || 0);
    let record = |failures: &Failures, positions: &[Position]| {
        let stream = FailureStream::new(&[], None);
        positions.iter().for_each(|at| stream.record(&expression(), ZERO, Some(*at), (1, 1)));
        stream.take().iter().for_each(|(_, change)| failures.record(change));
    };
    record(&failures, &[4, 5, 6, 7, 8]);
    let of = |name: &str, from| FailureFilter {
        event_type: Some(name.to_string()),
        from,
        ..FailureFilter::default()
    };
    let told = |filter: &FailureFilter| {
        let page = failures.page(filter, None, 10, 10);
        page.into_iter().map(|f| (f.event_type, f.count, f.positions)).collect::<Vec<_>>()
    };
    assert_eq!(told(&of("A", None)), [(Some("A".into()), 3, vec![4, 5, 8])]);
    assert_eq!(told(&of("A", Some(5))), [(Some("A".into()), 2, vec![5, 8])]);
    assert_eq!(told(&of("B", None)), [(Some("B".into()), 1, vec![6])]);
    assert_eq!(told(&of("C", None)), []);
    let (count, dismissals) = failures.dismissals(&of("A", None), 20);
    failures.dismiss(&dismissals);
    assert_eq!((count, failures.count()), (3, 2));
    assert_eq!(shown(&failures), [(2, vec![6, 7])]);
    let again = Failures::new(&[], &dismissals, &Arc::new(FailureMemory::new(0)));
    record(&again, &[4, 6, 8]);
    assert_eq!(shown(&again), [(1, vec![6])]);
}

proptest! {
    /// Pages and filters agree with a plain count of the rows, however much room there is.
    #[test]
    fn pages_and_counts_are_those_of_the_rows(
        steps in prop::collection::vec((0..6_u8, 0..5_u8, any::<bool>()), 0..40),
        limit in 1..4_usize,
    ) {
        let failures = Failures::default();
        let reason = |n: u8| match n {
            0 => ZERO.to_string(),
            n => format!("cannot cast '{}' to INT{}", n % 4, n / 4),
        };
        let mut rows: BTreeMap<(String, u8), i64> = BTreeMap::new();
        for (n, position, ends) in steps {
            let times = rows.entry((reason(n), position)).or_default();
            if ends && *times == 0 {
                continue;
            }
            let diff = if ends { -1 } else { 1 };
            *times += diff;
            let at = (position > 0).then_some(u64::from(position));
            failures.record(&change(&reason(n), at, diff));
        }
        let sums = |wanted: &dyn Fn(&str, u8) -> bool| {
            let mut sums: BTreeMap<String, i64> = BTreeMap::new();
            for ((reason, _), times) in rows.iter().filter(|((r, p), _)| wanted(r, *p)) {
                *sums.entry(reason.clone()).or_default() += times;
            }
            sums.retain(|_, times| *times > 0);
            sums
        };
        let told = |filter: &FailureFilter| {
            let pages = paged(&failures, filter, limit);
            let told: BTreeMap<String, i64> =
                pages.iter().map(|(_, reason, count)| (reason.clone(), *count)).collect();
            assert_eq!(told.len(), pages.len(), "each reason once: {pages:?}");
            assert_eq!(failures.count_of(filter), told.values().sum::<i64>());
            told
        };
        let all = told(&FailureFilter::default());
        prop_assert_eq!(&all, &sums(&|_, _| true));
        prop_assert_eq!(failures.count(), all.values().sum::<i64>());
        let text = FailureFilter { text: Some("'2' to".to_string()), ..FailureFilter::default() };
        prop_assert_eq!(told(&text), sums(&|reason, _| reason.contains("'2' to")));
        let range = FailureFilter { from: Some(2), to: Some(3), ..FailureFilter::default() };
        prop_assert_eq!(told(&range), sums(&|_, position| (2..=3).contains(&position)));
        let in_range: i64 = told(&range).values().sum();
        prop_assert_eq!(dismiss(&failures, Some(2), Some(3), 9), in_range);
        prop_assert_eq!(told(&FailureFilter::default()), sums(&|_, p| !(2..=3).contains(&p)));
        let left = failures.count();
        prop_assert_eq!(dismiss(&failures, None, None, 9), left);
        prop_assert_eq!(failures.count(), 0);
    }
}
