//! What must hold whatever packets come, in whatever order: the properties that the fuzzer tries to break.
//!
//! [`run`] makes a sequence of packets from bytes and sends them through the host's core. After each it is checked that
//!
//! - a packet that passes is as it came, byte for byte;
//! - of one that is translated nothing has changed but addresses, ports and checksums, and these are as right as before;
//! - the reply to it comes back as the reply to what the client sent, byte for byte;
//! - an answer of our own is right in every sum, and goes to who asked;
//! - bystanders pass as they came.
//!
//! The core cannot read outside of a packet: [`HostPacket`] answers `None` there, and refuses offsets that the hooks in
//! the kernel could not reach.

mod input;
mod oracle;

use proxy_common::datapath::Verdict;

use super::{Hook, HostEnv, HostPacket, Via, World, tcp, udp};
use input::Sent;

/// Most packets of a sequence: enough to open, use, close and open again.
const PACKETS: usize = 12;

/// Makes packets of `data` and checks the properties.
///
/// # Panics
/// When one is broken: this is how a fuzzer and a test are told.
pub fn run(data: &[u8]) {
    let mut source = arbitrary::Unstructured::new(data);
    let mut env = HostEnv::new(&World::new());
    for _ in 0..PACKETS {
        // No more bytes.
        let Ok(sent) = Sent::make(&mut source) else {
            break;
        };
        check(&mut env, &sent);
    }
    bystanders_pass(&mut env);
}

fn pass_through(env: &mut HostEnv, hook: Hook, via: Via, bytes: &[u8]) -> (Verdict, Vec<u8>) {
    env.set_device(via);
    let mut packet = HostPacket::new(bytes.to_vec());
    let verdict = env.run(hook, &mut packet);
    (verdict, packet.bytes)
}

fn check(env: &mut HostEnv, sent: &Sent) {
    let before = &sent.bytes;
    let (verdict, after) = pass_through(env, sent.hook, sent.via, before);
    match verdict {
        Verdict::Pass | Verdict::Again | Verdict::Kept => {
            assert_eq!(before, &after, "a packet that passes was altered")
        }
        Verdict::Opened | Verdict::Translated => {
            oracle::only_names_changed(before, &after);
            if sent.hook == Hook::Ingress && oracle::is_request(before) {
                the_reply_undoes_it(env.clone(), sent.via, before, &after);
            }
        }
        Verdict::AnswerNobody | Verdict::AnswerUnknownPort => oracle::is_an_answer(before, &after),
        Verdict::Drop(_) => {}
    }
}

/// What the backend would answer to `arrived` reaches the client as an answer to `sent`.
///
/// An answer is the packet with its addresses and ports exchanged: no sum of it changes by that.
fn the_reply_undoes_it(mut env: HostEnv, via: Via, sent: &[u8], arrived: &[u8]) {
    let (verdict, left) = pass_through(&mut env, Hook::Egress, Via::Uplink, arrived);
    let reply = match verdict {
        Verdict::Pass => oracle::swapped(arrived),
        Verdict::Translated => {
            oracle::only_names_changed(arrived, &left);
            let (verdict, reply) = pass_through(&mut env, Hook::Ingress, Via::Uplink, &oracle::swapped(&left));
            assert_eq!(verdict, Verdict::Translated, "the answer to a masqueraded request is not known");
            assert_eq!(
                oracle::plain(&reply),
                oracle::plain(&oracle::swapped(arrived)),
                "the masquerade was not undone"
            );
            reply
        }
        // No port was free.
        _ => return,
    };
    let (verdict, seen) = pass_through(&mut env, Hook::Egress, via, &reply);
    assert_eq!(verdict, Verdict::Translated, "the reply is not known");
    assert_eq!(oracle::plain(&seen), oracle::plain(&oracle::swapped(sent)), "the reply does not undo the request");
}

/// Packets of two pods that never appear in a sequence.
fn bystanders_pass(env: &mut HostEnv) {
    for (from, to) in [("10.244.1.77:80", "10.244.2.7:8080"), ("[fd00:2441::77]:80", "[fd00:2442::beef:7]:8080")] {
        let (Ok(from), Ok(to)) = (from.parse(), to.parse()) else {
            continue;
        };
        for packet in [tcp(from, to, "S", b"x"), udp(from, to, b"x"), tcp(to, from, "SA", b"x"), udp(to, from, b"x")] {
            for hook in [Hook::Ingress, Hook::Egress] {
                let (verdict, seen) = pass_through(env, hook, Via::Pod, &packet);
                assert_eq!((verdict, &seen), (Verdict::Pass, &packet), "a bystander was altered");
            }
        }
    }
}
