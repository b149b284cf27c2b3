//! The queue's promises in virtual time, each with the order of arrival as a control where that is what it replaced.

use super::*;

const BOUNDS: Bounds = Bounds { queue_max: 512, queue_total_max: 4096, principal_percent: 100 };

/// What a simulated call is: whose, how much memory, how long it runs, in ticks.
#[derive(Debug, Clone, Copy)]
struct Job {
    owner: &'static str,
    memory: u64,
    ticks: u64,
}

/// A queue, and the calls that it let in, run by a clock of ticks.
struct World {
    order: Order,
    /// In ticks.
    now: u64,
    tick: Duration,
    jobs: HashMap<Ticket, Job>,
    running: Vec<(u64, Job)>,
    /// Who began, and when, in order.
    began: Vec<(u64, Job)>,
}

enum Order {
    Fair(Box<Fair>),
    /// As it was before: one queue, and its head is not passed.
    Arrival {
        capacity: CapacityWire,
        held: Held,
        queue: VecDeque<Ticket>,
        tickets: u64,
    },
}

impl World {
    fn new(order: Order) -> Self {
        Self {
            order,
            now: 0,
            tick: Duration::from_secs(1),
            jobs: HashMap::new(),
            running: Vec::new(),
            began: Vec::new(),
        }
    }

    fn both(sandboxes_max: u32, memory_bytes_max: u64) -> [Self; 2] {
        let capacity = CapacityWire { sandboxes_max, memory_bytes_max };
        let mut fair = Fair::new(BOUNDS);
        fair.set_capacity(capacity);
        let arrival = Order::Arrival { capacity, held: Held::default(), queue: VecDeque::new(), tickets: 0 };
        [Self::new(Order::Fair(Box::new(fair))), Self::new(arrival)]
    }

    fn send(&mut self, job: Job) {
        let ticket = match &mut self.order {
            Order::Fair(fair) => {
                let ask = Ask { memory_bytes: job.memory, text_bytes: 0 };
                fair.arrive(job.owner, ask, self.tick * self.now as u32).unwrap()
            }
            Order::Arrival { queue, tickets, .. } => {
                *tickets += 1;
                queue.push_back(Ticket(*tickets));
                Ticket(*tickets)
            }
        };
        self.jobs.insert(ticket, job);
        self.serve();
    }

    fn serve(&mut self) {
        let granted = match &mut self.order {
            Order::Fair(fair) => fair.turns(self.tick * self.now as u32),
            Order::Arrival { capacity, held, queue, .. } => {
                let mut granted = Vec::new();
                while let Some(memory) = queue.front().map(|t| self.jobs[t].memory)
                    && held.sandboxes < capacity.sandboxes_max
                    && held.memory_bytes + memory <= capacity.memory_bytes_max
                {
                    held.sandboxes += 1;
                    held.memory_bytes += memory;
                    granted.extend(queue.pop_front());
                }
                granted
            }
        };
        for ticket in granted {
            let job = self.jobs.remove(&ticket).unwrap();
            self.began.push((self.now, job));
            self.running.push((self.now + job.ticks, job));
        }
        if let Order::Fair(fair) = &self.order {
            let held = self.running.iter().fold((0, 0), |(n, bytes), (_, job)| (n + 1, bytes + job.memory));
            assert_eq!(fair.held(), held);
            let capacity = fair.capacity.unwrap();
            assert!(held.0 <= capacity.sandboxes_max && held.1 <= capacity.memory_bytes_max, "{held:?}");
            assert_eq!(fair.waiting(), self.jobs.len());
        }
    }

    /// One tick: what is over ends, one after the other.
    fn tick(&mut self) -> Vec<Job> {
        self.now += 1;
        self.serve();
        let mut over = Vec::new();
        while let Some(at) = self.running.iter().position(|(end, _)| *end <= self.now) {
            let (_, job) = self.running.remove(at);
            match &mut self.order {
                Order::Fair(fair) => fair.release(job.owner, job.memory, self.tick * self.now as u32),
                Order::Arrival { held, .. } => {
                    held.sandboxes -= 1;
                    held.memory_bytes -= job.memory;
                }
            }
            self.serve();
            over.push(job);
        }
        over
    }

    fn first_of(&self, owner: &str) -> Option<u64> {
        self.began.iter().find(|(_, job)| job.owner == owner).map(|(at, _)| *at)
    }

    fn count(&self, owner: &str) -> usize {
        self.began.iter().filter(|(_, job)| job.owner == owner).count()
    }
}

fn job(owner: &'static str, memory: u64, ticks: u64) -> Job {
    Job { owner, memory, ticks }
}

#[test]
fn a_flood_delays_others_by_one_turn() {
    // 4 places, calls of 10 ticks that begin one tick apart: a place comes free every few ticks.
    let waits = World::both(4, 1000).map(|mut world| {
        for n in 0..400 {
            world.send(job("flood", 10, 10 + n % 4));
        }
        for _ in 0..20 {
            world.tick();
        }
        let sent = world.now;
        world.send(job("other", 10, 10));
        while world.first_of("other").is_none() {
            world.tick();
        }
        world.first_of("other").unwrap() - sent
    });
    assert!(waits[0] <= 13, "at most until the next call ends: {waits:?}");
    assert!(waits[1] > 500, "control: in order of arrival it waits for the whole flood: {waits:?}");
}

#[test]
fn principals_with_work_hold_the_same_and_take_turns() {
    let [mut world, _] = World::both(6, 1_000_000);
    for _ in 0..300 {
        world.send(job("many", 10, 3));
    }
    for _ in 0..60 {
        world.send(job("b", 10, 3));
        world.send(job("c", 10, 3));
    }
    world.began.clear();
    for _ in 0..60 {
        world.tick();
    }
    let counts = ["many", "b", "c"].map(|owner| world.count(owner));
    assert!(counts.iter().all(|n| n.abs_diff(40) <= 3), "{counts:?}");
    // One place only: nobody has a second turn before each of the others has had one.
    let [mut world, _] = World::both(1, 1_000_000);
    for _ in 0..30 {
        world.send(job("a", 10, 1));
    }
    for _ in 0..10 {
        world.send(job("b", 10, 1));
        world.send(job("c", 10, 1));
    }
    for _ in 0..25 {
        world.tick();
    }
    for three in world.began[1..25].chunks_exact(3) {
        let mut owners: Vec<_> = three.iter().map(|(_, job)| job.owner).collect();
        owners.sort_unstable();
        assert_eq!(owners, ["a", "b", "c"], "{:?}", world.began);
    }
}

#[test]
fn shares_are_of_what_is_held_most_of() {
    // `wide` asks for memory, `thin` for places: both come to half of what they need most.
    let [mut world, _] = World::both(20, 1000);
    for _ in 0..200 {
        world.send(job("wide", 100, 5));
        world.send(job("thin", 1, 5));
    }
    let mut held = (0, 0);
    for _ in 0..50 {
        world.tick();
        let of = |owner| world.running.iter().filter(|(_, job)| job.owner == owner).count();
        held = (of("wide"), of("thin"));
    }
    assert!(held.0 >= 6 && held.1 >= 9, "{held:?}");
}

#[test]
fn a_large_call_passes_nobody_by_and_is_passed_by_a_bounded_sum() {
    // Room for ten small ones, which always wait, and a call of eight times their size comes among them.
    let large = 80;
    let seen = World::both(1000, 100).map(|mut world| {
        world.tick = Duration::from_millis(5);
        let mut next = 0;
        let mut more = |world: &mut World| {
            next += 1;
            world.send(job(["a", "b", "c"][next % 3], 10, 7 + next as u64 % 5));
        };
        (0..60).for_each(|_| more(&mut world));
        (0..10).for_each(|_| drop(world.tick()));
        world.send(job("large", large, 5));
        let (mut given_back, mut small_began) = (0, 0);
        let before = world.began.len();
        while world.first_of("large").is_none() {
            for over in world.tick() {
                given_back += over.memory;
                // Callers of small calls send the next one at once.
                more(&mut world);
            }
            small_began = world.began.len() - before;
            assert!(world.now < 10_000, "the large call starves");
        }
        (given_back, small_began)
    });
    let (given_back, small_began) = seen[0];
    assert!(given_back <= large / 2 * 3, "others gave back {given_back} before a call of {large} began");
    assert!(
        (small_began as u64 + 1) * 10 >= given_back / 3,
        "{small_began} small ones began of {given_back} given back"
    );
    // Control: in order of arrival the 60 that came before it went first, and while it stood at the head nobody began.
    assert!(seen[1].0 > 2 * large, "{seen:?}");
}

#[test]
fn while_a_large_call_waits_small_ones_begin() {
    // One call of nearly everything behind a long one that holds the rest.
    let waits = World::both(1000, 10).map(|mut world| {
        world.send(job("long", 4, 200));
        world.send(job("large", 9, 5));
        (0..40).for_each(|_| world.send(job("small", 1, 2)));
        (0..100).for_each(|_| drop(world.tick()));
        let small = world.count("small");
        (0..150).for_each(|_| drop(world.tick()));
        (small, world.first_of("large"))
    });
    assert_eq!(waits[0].0, 40, "small calls go on beside what is saved");
    assert!(waits[0].1.is_some_and(|at| at <= 201), "and the large one has its room when the long one ends");
    assert_eq!(waits[1].0, 0, "control: behind the head of one queue nobody moves");
}

/// The same without an end: who sends large calls that a long one keeps out costs others half of their pace at most.
#[test]
fn saving_for_what_can_not_come_yet_costs_others_half() {
    let pace = [false, true].map(|large| {
        let [mut world, _] = World::both(1000, 100);
        world.send(job("long", 10, 1000));
        if large {
            (0..3).for_each(|_| world.send(job("large", 95, 5)));
        }
        (0..30).for_each(|_| world.send(job("small", 10, 1)));
        let (mut began, mut still) = (world.now, 0);
        while world.now < 500 {
            let over = world.tick();
            over.iter().for_each(|_| world.send(job("small", 10, 1)));
            if !over.is_empty() {
                began = world.now;
            }
            still = still.max(world.now - began);
            assert!(still <= 1 + world.now / 2, "nobody moved for {still} of {} s", world.now);
        }
        world.count("small")
    });
    assert!(pace[1] * 100 >= pace[0] * 45, "{pace:?}");
}

/// Calls that run longer than the first spells are waited for by a later one.
#[test]
fn spells_grow_until_one_is_long_enough() {
    let [mut world, _] = World::both(1000, 100);
    let small = |world: &mut World| world.send(job("small", 10, 20));
    (0..30).for_each(|_| small(&mut world));
    (0..5).for_each(|_| drop(world.tick()));
    world.send(job("large", 95, 5));
    while world.first_of("large").is_none() {
        world.tick().iter().for_each(|_| small(&mut world));
        assert!(world.now < 200, "a call of nearly everything starves among calls of 20 s");
    }
}

#[test]
fn large_calls_of_several_all_have_their_turn() {
    let [mut world, _] = World::both(1000, 16);
    let small = |world: &mut World| world.send(job("small", 1, 3));
    (0..40).for_each(|_| small(&mut world));
    for owner in ["x", "y", "z"] {
        world.send(job(owner, 12, 4));
        world.send(job(owner, 12, 4));
    }
    let mut idle = 0;
    while ["x", "y", "z"].iter().any(|owner| world.count(owner) < 2) {
        let over = world.tick();
        idle = if over.is_empty() { idle + 1 } else { 0 };
        over.iter().filter(|job| job.owner == "small").for_each(|_| small(&mut world));
        assert!(idle < 10 && world.now < 2_000, "{:?}", world.began);
    }
    let order: Vec<_> = world.began.iter().filter(|(_, job)| job.memory == 12).map(|(_, job)| job.owner).collect();
    let mut first: Vec<_> = order[..3].to_vec();
    first.sort_unstable();
    assert_eq!(first, ["x", "y", "z"], "each once before anybody twice: {order:?}");
}

#[test]
fn what_was_saved_for_a_call_that_left_is_free() {
    let mut fair = Fair::new(BOUNDS);
    fair.set_capacity(CapacityWire { sandboxes_max: 100, memory_bytes_max: 10 });
    let ask = |memory_bytes| Ask { memory_bytes, text_bytes: 0 };
    assert!(fair.at_once("held", 6));
    let large = fair.arrive("large", ask(10), Duration::ZERO).unwrap();
    assert_eq!(fair.turns(Duration::ZERO), []);
    let small: Vec<_> = (0..4).map(|_| fair.arrive("small", ask(1), Duration::ZERO).unwrap()).collect();
    assert_eq!(fair.turns(Duration::ZERO), small[..2], "half of the four that are free is set aside");
    assert!(!fair.at_once("small", 1));
    fair.leave("large", large);
    assert_eq!(fair.turns(Duration::ZERO), small[2..]);
    assert_eq!((fair.waiting(), fair.held()), (0, (5, 10)));
    assert_eq!(fair.known(), 2, "who neither holds nor waits is forgotten");
}

#[test]
fn a_full_house_takes_from_the_longest_queue() {
    let mut fair = Fair::new(Bounds { queue_max: 3, queue_total_max: 5, principal_percent: 100 });
    let ask = |text_bytes| Ask { memory_bytes: 1, text_bytes };
    let now = Duration::ZERO;
    fair.set_capacity(CapacityWire { sandboxes_max: 1, memory_bytes_max: 1 });
    assert!(fair.at_once("a", 1));
    let a: Vec<_> = (0..3).map(|_| fair.arrive("a", ask(1), now).unwrap()).collect();
    assert_eq!(fair.arrive("a", ask(1), now).unwrap_err(), Full::Own);
    fair.arrive("b", ask(1), now).unwrap();
    fair.arrive("b", ask(1), now).unwrap();
    assert_eq!(fair.arrive("b", ask(1), now).unwrap_err(), Full::All, "its own would be the longest");
    fair.arrive("c", ask(1), now).unwrap();
    assert_eq!(fair.pushed_out(), [a[2]]);
    assert_eq!((fair.waiting(), fair.waiting_principals()), (5, 3));
    // The same by the size of what waits.
    let mut fair = Fair::new(BOUNDS);
    fair.set_capacity(CapacityWire { sandboxes_max: 0, memory_bytes_max: 1 });
    let text = PRINCIPAL_TEXT_BYTES_MAX / 2;
    let last = ["a", "a", "b", "b"].map(|owner| fair.arrive(owner, ask(text), now).unwrap())[3];
    assert_eq!(fair.arrive("a", ask(1), now).unwrap_err(), Full::Own);
    fair.arrive("c", ask(text), now).unwrap();
    assert_eq!(fair.pushed_out().len(), 1);
    assert!(fair.text_bytes <= TEXT_BYTES_MAX);
    fair.leave("b", last);
    fair.clear();
    assert_eq!((fair.waiting(), fair.known(), fair.text_bytes), (0, 0, 0));
}

#[test]
fn for_a_text_only_texts_have_to_leave_and_none_in_vain() {
    let ask = |text_bytes| Ask { memory_bytes: 1, text_bytes };
    let now = Duration::ZERO;
    let mut fair = Fair::new(BOUNDS);
    fair.set_capacity(CapacityWire { sandboxes_max: 0, memory_bytes_max: 1 });
    let text = PRINCIPAL_TEXT_BYTES_MAX / 2;
    let large: Vec<_> = ["a", "a", "b", "b"].map(|owner| fair.arrive(owner, ask(text), now).unwrap()).into();
    let small: Vec<_> = (0..20).map(|_| fair.arrive("a", ask(0), now).unwrap()).collect();
    fair.arrive("c", ask(text), now).unwrap();
    let out = fair.pushed_out();
    assert_eq!(out.len(), 1);
    assert!(large.contains(&out[0]) && !small.contains(&out[0]), "a call without text makes no room for one");
    // Now all three hold as much, or one has twice as much: what would not be enough is left alone.
    let waiting = fair.waiting();
    assert_eq!(fair.arrive("d", ask(2 * text), now).unwrap_err(), Full::All);
    assert_eq!((fair.waiting(), fair.pushed_out()), (waiting, vec![]));
}

#[test]
fn a_call_that_is_saved_for_stays_within_its_principals_bound() {
    let mut fair = Fair::new(Bounds { principal_percent: 50, ..BOUNDS });
    fair.set_capacity(CapacityWire { sandboxes_max: 100, memory_bytes_max: 100 });
    let ask = |memory_bytes| Ask { memory_bytes, text_bytes: 0 };
    let now = Duration::ZERO;
    assert!(fair.at_once("x", 50) && fair.at_once("y", 40));
    assert!(fair.at_once("a", 1));
    let large = fair.arrive("a", ask(40), now).unwrap();
    fair.arrive("y", ask(1), now).unwrap();
    assert_eq!(fair.turns(now).len(), 1);
    assert!(fair.saving.as_ref().is_some_and(|s| s.waiting.ticket == large));
    // Others of its own go on meanwhile, and come to hold what it was to hold.
    for _ in 0..12 {
        fair.arrive("a", ask(1), now).unwrap();
    }
    let mut granted = fair.turns(now).len();
    for _ in 0..3 {
        fair.release("y", 10, now);
        granted += fair.turns(now).len();
    }
    assert_eq!(granted, 12);
    fair.release("x", 50, now);
    assert_eq!(fair.turns(now), [], "room there is, and its principal holds 13 of 50");
    assert!(!fair.may_hold("a", 40));
    (0..3).for_each(|_| fair.release("a", 1, now));
    assert_eq!(fair.turns(now), [large]);
}

#[test]
fn one_principal_may_be_kept_from_holding_everything() {
    let mut fair = Fair::new(Bounds { principal_percent: 75, ..BOUNDS });
    fair.set_capacity(CapacityWire { sandboxes_max: 4, memory_bytes_max: 1000 });
    let held = (0..4).filter(|_| fair.at_once("a", 10)).count();
    assert_eq!(held, 3);
    assert!(fair.at_once("b", 10), "the rest is for others");
    let ask = Ask { memory_bytes: 900, text_bytes: 0 };
    let whole = fair.arrive("c", ask, Duration::ZERO).unwrap();
    (0..3).for_each(|_| fair.release("a", 10, Duration::ZERO));
    assert_eq!(fair.turns(Duration::ZERO), [whole], "a first call may be larger");
}

#[test]
fn when_to_come_back_is_told_from_the_pace() {
    let mut fair = Fair::new(Bounds { queue_max: 20, ..BOUNDS });
    fair.set_capacity(CapacityWire { sandboxes_max: 1, memory_bytes_max: 100 });
    let at = Duration::from_secs;
    assert!(fair.at_once("a", 1));
    for _ in 0..20 {
        fair.arrive("a", Ask { memory_bytes: 1, text_bytes: 0 }, at(0)).unwrap();
    }
    assert_eq!(fair.turns(at(0)), []);
    assert_eq!(fair.retry_after("a", at(0)), RETRY_LEAST, "nothing is known yet");
    assert_eq!(
        fair.retry_after("a", at(3)),
        at(30),
        "nothing came free for three seconds, and ten are before the half"
    );
    for second in 1..=10 {
        fair.release("a", 1, at(second * 2));
        assert_eq!(fair.turns(at(second * 2)).len(), 1);
    }
    assert_eq!(fair.retry_after("a", at(20)), at(10), "one every two seconds, five until half of the ten");
    assert_eq!(fair.retry_after("a", at(2000)), RETRY_MOST);
}

/// Calls of three principals come, end and leave in no order: nothing is lost, and nobody holds what is not there.
#[test]
fn nothing_is_lost_in_any_order() {
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        // xorshift64*, Vigna 2016.
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        seed.wrapping_mul(0x2545_f491_4f6c_dd1d) % below
    };
    for _ in 0..50 {
        let capacity = CapacityWire { sandboxes_max: 1 + random(8) as u32, memory_bytes_max: 20 + random(80) };
        let mut fair = Fair::new(Bounds { queue_max: 20, queue_total_max: 40, principal_percent: 60 });
        fair.set_capacity(capacity);
        let (mut waiting, mut running) = (HashMap::new(), Vec::new());
        for step in 0..2_000 {
            let now = Duration::from_millis(step);
            let owner = ["a", "b", "c"][random(3) as usize];
            match random(5) {
                0 | 1 => {
                    let memory = 1 + random(20);
                    if let Ok(ticket) = fair.arrive(owner, Ask { memory_bytes: memory, text_bytes: 3 }, now) {
                        waiting.insert(ticket, (owner, memory));
                    }
                }
                2 => {
                    if let Some((&ticket, &(owner, _))) = waiting.iter().min_by_key(|(t, _)| t.0) {
                        waiting.remove(&ticket);
                        fair.leave(owner, ticket);
                    }
                }
                _ if !running.is_empty() => {
                    let (owner, memory) = running.swap_remove(random(running.len() as u64) as usize);
                    fair.release(owner, memory, now);
                }
                _ => {}
            }
            fair.pushed_out().iter().for_each(|ticket| assert!(waiting.remove(ticket).is_some()));
            fair.turns(now).iter().for_each(|ticket| running.push(waiting.remove(ticket).unwrap()));
            assert_eq!(fair.waiting(), waiting.len());
            assert_eq!(fair.text_bytes, 3 * waiting.len());
            assert_eq!(fair.held(), (running.len() as u32, running.iter().map(|(_, m)| m).sum()));
            assert!(fair.held().0 <= capacity.sandboxes_max && fair.held().1 <= capacity.memory_bytes_max);
            assert!(!running.is_empty() || waiting.is_empty(), "somebody waits for an idle house");
        }
    }
}
