//! System calls that fail: each kind of call with each error that it can have, several times in a row and then now and then, while
//! the whole engine serves connections and datagrams. Connections may be refused while they are made; once they are there no byte
//! is lost, and nothing waits for ever. Of datagrams some may be lost. Needs the feature `faults`.

mod scenes;
mod world;

use std::time::{Duration, Instant};

use scenes::{across_the_link, past_the_link};
use spelt::sys::faults::{Call, Fault, Rule};
use world::{Carrier, Left};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(15);

/// For this kind of call the scene is played once for each fault, which must be made.
fn each_fault(call: Call, scene: impl Fn(Vec<Rule>) -> Left) {
    for fault in call.faults() {
        eprintln!("{} with {fault:?}", call.name());
        let began = Instant::now();
        let left = scene(rules(call, *fault));
        let made = left.hits.get(&(call, *fault)).copied().unwrap_or(0);
        assert!(made > 0, "{call:?} with {fault:?} never came");
        eprintln!("    {made} times, {:?} of which {:?} at work", began.elapsed(), left.at_work);
        assert!(left.at_work < Duration::from_secs(1), "{call:?} with {fault:?} keeps it busy: {:?}", left.at_work);
    }
}

fn rules(call: Call, fault: Fault) -> Vec<Rule> {
    // Some are made a few times only.
    let seldom = matches!(call, Call::Accept | Call::ErrorQueue | Call::Pipe | Call::SetOption);
    vec![
        Rule { call, fault, after: if seldom { 0 } else { 2 }, every: 1, times: 12 },
        Rule { call, fault, after: 5, every: 3, times: 12 },
        // Seldom enough for all to be done in time, and without an end.
        Rule { call, fault, after: 100, every: 50, times: u64::MAX },
    ]
}

/// A test for each kind of call, under its name.
macro_rules! calls {
    ($($name:ident: $call:ident, $($scene:expr),+;)*) => { $(
        #[test]
        fn $name() {
            $(each_fault(Call::$call, $scene);)+
        }
    )* };
}

calls! {
    send: Send, |r| across_the_link(Carrier::Tap, r), |r| across_the_link(Carrier::Stream, r), past_the_link;
    peek: Peek, |r| across_the_link(Carrier::Tap, r), |r| across_the_link(Carrier::Stream, r);
    discard: Discard, |r| across_the_link(Carrier::Tap, r);
    receive: Receive, |r| across_the_link(Carrier::Stream, r), past_the_link;
    splice: Splice, past_the_link;
    send_datagram: SendDatagram, |r| across_the_link(Carrier::Tap, r), past_the_link;
    send_datagrams: SendDatagrams, past_the_link;
    receive_datagrams: ReceiveDatagrams, |r| across_the_link(Carrier::Tap, r), past_the_link;
    send_messages: SendMessages, |r| across_the_link(Carrier::Messages, r);
    receive_messages: ReceiveMessages, |r| across_the_link(Carrier::Messages, r);
    error_queue: ErrorQueue, |r| across_the_link(Carrier::Tap, r);
    tap_read: TapRead, |r| across_the_link(Carrier::Tap, r);
    tap_write: TapWrite, |r| across_the_link(Carrier::Tap, r);
    get_option: GetOption, |r| across_the_link(Carrier::Tap, r);
    set_option: SetOption, |r| across_the_link(Carrier::Tap, r), past_the_link;
    open: Open, |r| across_the_link(Carrier::Tap, r), past_the_link;
    connect: Connect, |r| across_the_link(Carrier::Tap, r), past_the_link;
    accept: Accept, |r| across_the_link(Carrier::Tap, r), past_the_link;
    pipe: Pipe, past_the_link;
    watch: Watch, |r| across_the_link(Carrier::Tap, r), past_the_link;
}

#[test]
fn nothing_fails_without_rules() {
    for carrier in [Carrier::Tap, Carrier::Stream, Carrier::Messages] {
        assert!(across_the_link(carrier, Vec::new()).hits.is_empty());
    }
    assert!(past_the_link(Vec::new()).hits.is_empty());
}
