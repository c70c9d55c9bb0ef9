//! Faults in what the operations of a device program are handed: addresses, strides, counts, grids, kernels, messages.

use super::{ANY, Fault};
use annulus::lower::program::{
    Action, Address, Argument, AttentionArg, Base, FinishArg, Kernel, KernelScoring, Launch, LeafArg,
    Message, PackArg, Program, Runs, Scoring,
};
use std::sync::Arc;

/// Changes every address of an operation.
pub(super) fn readdress(action: &mut Action, to: &dyn Fn(Address) -> Address) {
    let leaf = |leaf: &mut Option<LeafArg>| leaf.iter_mut().for_each(|l| l.at = to(l.at));
    let runs = |r: &mut Runs| r.at = to(r.at);
    match action {
        Action::Launch(launch) => match &mut launch.argument {
            Argument::Attention(arg) => {
                let arg = Arc::make_mut(arg);
                for q in Arc::make_mut(&mut arg.q) {
                    q.q.at = to(q.q.at);
                    q.carry = q.carry.map(to);
                    q.lse = q.lse.map(to);
                    q.out.iter_mut().for_each(|o| o.at = to(o.at));
                }
                for kv in Arc::make_mut(&mut arg.kv) {
                    (kv.k.at, kv.v) = (to(kv.k.at), to(kv.v));
                }
                leaf(&mut arg.sinks);
            }
            Argument::Merge(arg) => {
                (arg.a, arg.b, arg.to) = (arg.a.map(to), arg.b.map(to), to(arg.to));
            }
            Argument::Finish(arg) => {
                let q = &mut arg.rows;
                (q.carry, q.lse) = (q.carry.map(to), q.lse.map(to));
                q.out.iter_mut().for_each(|o| o.at = to(o.at));
                leaf(&mut arg.sinks);
            }
            Argument::Pack(arg) => arg.copies.iter_mut().flatten().for_each(runs),
        },
        Action::Copy(copy) => {
            runs(&mut copy.from);
            runs(&mut copy.to);
        }
        Action::Group(group) => {
            let messages = group.sends.iter_mut().chain(&mut group.recvs);
            messages.flat_map(|m| &mut m.parts).for_each(runs);
        }
        _ => {}
    }
}

/// Takes a kind, and what is to be changed.
type Plant<'a, T> = &'a mut dyn FnMut(&'static str, &dyn Fn(&mut T));

/// All that there are in these programs.
pub(super) fn faults(programs: &[Program]) -> Vec<Fault> {
    let mut all = vec![];
    for (rank, program) in programs.iter().enumerate() {
        of_program(programs, rank, &mut all);
        for (at, op) in program.ops.iter().enumerate() {
            let mut plant = |kind, change: &dyn Fn(&mut Action)| {
                let mut programs = programs.to_vec();
                change(&mut programs[rank].ops[at].action);
                // What cannot be changed so is no fault.
                if programs[rank].ops[at].action != op.action {
                    let place = format!(
                        "rank {rank}, step {}, {} on stream {}",
                        op.step,
                        op.action.name(),
                        op.stream
                    );
                    all.push(Fault { kind, place, programs, call: String::new(), told: ANY });
                }
            };
            match &op.action {
                Action::Launch(launch) => {
                    grids(program, launch, &mut |kind, change: &dyn Fn(&mut Launch)| {
                        plant(kind, &|action| {
                            if let Action::Launch(launch) = action {
                                change(launch);
                            }
                        });
                    });
                    arguments(&launch.argument, &mut |kind, change| {
                        plant(kind, &|action| {
                            if let Action::Launch(launch) = action {
                                change(&mut launch.argument);
                            }
                        });
                    });
                }
                Action::Copy(_) => copies(&mut |kind, change| {
                    plant(kind, &|action| {
                        if let Action::Copy(copy) = action {
                            let mut both = [copy.from, copy.to];
                            change(&mut both);
                            [copy.from, copy.to] = both;
                        }
                    });
                }),
                Action::Group(_) => messages(&mut |kind, change| {
                    plant(kind, &|action| {
                        if let Action::Group(group) = action {
                            let [sends, recvs] = [&mut group.sends, &mut group.recvs];
                            change(sends, recvs, &mut group.group);
                        }
                    });
                }),
                _ => {}
            }
        }
    }
    all
}

fn grids(program: &Program, launch: &Launch, plant: Plant<'_, Launch>) {
    plant("a grid too small", &|l| l.grid.blocks = (l.grid.blocks - 1).max(1));
    plant("half the threads", &|l| l.grid.threads /= 2);
    let work = |k: &Kernel| match k {
        Kernel::Helper(_, work) => Some(*work),
        _ => None,
    };
    let own = &program.kernels[launch.kernel];
    let other = program.kernels.iter().position(|k| k != own && work(k) == work(own));
    if let Some(other) = other {
        plant("another kernel", &|l| l.kernel = other);
    }
}

type OnArgument<'a> = Plant<'a, Argument>;

fn arguments(argument: &Argument, plant: OnArgument<'_>) {
    match argument {
        Argument::Attention(_) => attentions(plant),
        Argument::Merge(_) => {
            let mut merge = |kind, change: &dyn Fn(&mut annulus::lower::program::MergeArg)| {
                plant(kind, &|a| {
                    if let Argument::Merge(a) = a {
                        change(a);
                    }
                });
            };
            merge("merged with another part", &|a| a.b = a.b.map(|b| b.plus(16)));
            merge("merged to elsewhere", &|a| a.to = a.to.plus(16));
            merge("fewer rows merged", &|a| a.rows -= 1);
            merge("shorter rows merged", &|a| a.dv -= 1);
            merge("nothing merged", &|a| a.b = None);
        }
        Argument::Finish(_) => {
            let mut finish = |kind, change: &dyn Fn(&mut FinishArg)| {
                plant(kind, &|a| {
                    if let Argument::Finish(a) = a {
                        change(a);
                    }
                });
            };
            finish("the end of another carry", &|a| a.rows.carry = a.rows.carry.map(|c| c.plus(16)));
            finish("an end with fewer heads", &|a| a.heads -= 1);
            finish("an end with fewer rows", &|a| a.rows.rows.len -= 1);
        }
        Argument::Pack(_) => {
            let mut pack = |kind, change: &dyn Fn(&mut PackArg)| {
                plant(kind, &|a| {
                    if let Argument::Pack(a) = a {
                        change(a);
                    }
                });
            };
            pack("a part not packed", &|a| {
                a.copies.pop();
            });
            pack("fewer bytes packed", &|a| a.copies[0].iter_mut().for_each(|r| r.bytes -= 16));
            pack("fewer runs packed", &|a| a.runs -= 1);
            pack("packed from elsewhere", &|a| a.copies[0][0].at = a.copies[0][0].at.plus(16));
            pack("packed to elsewhere", &|a| a.copies[0][1].at = a.copies[0][1].at.plus(16));
        }
    }
}

fn attentions(plant: OnArgument<'_>) {
    let mut attention = |kind, change: &dyn Fn(&mut AttentionArg)| {
        plant(kind, &|a| {
            if let Argument::Attention(a) = a {
                change(Arc::make_mut(a));
            }
        });
    };
    let scoring = |arg: &mut AttentionArg, change: &dyn Fn(&mut KernelScoring)| {
        if let Scoring::Kernel(s) = &mut arg.scoring {
            change(Arc::make_mut(s));
        }
    };
    attention("another query row", &|a| {
        let q = &mut Arc::make_mut(&mut a.q)[0].q;
        q.at = q.at.plus(16);
    });
    attention("another key row", &|a| {
        Arc::make_mut(&mut a.kv).iter_mut().take(1).for_each(|p| p.k.at = p.k.at.plus(64));
    });
    attention("another value", &|a| {
        Arc::make_mut(&mut a.kv).iter_mut().take(1).for_each(|p| p.v = p.v.plus(16));
    });
    attention("keys and values exchanged", &|a| {
        Arc::make_mut(&mut a.kv).iter_mut().take(1).for_each(|p| (p.k.at, p.v) = (p.v, p.k.at));
    });
    attention("another carry", &|a| {
        Arc::make_mut(&mut a.q).iter_mut().for_each(|q| q.carry = q.carry.map(|c| c.plus(16)));
    });
    attention("another place of the result", &|a| {
        Arc::make_mut(&mut a.q).iter_mut().filter_map(|q| q.out.as_mut()).for_each(|o| o.at = o.at.plus(32));
    });
    attention("another place of the log-sum-exp", &|a| {
        Arc::make_mut(&mut a.q).iter_mut().for_each(|q| q.lse = q.lse.map(|l| l.plus(4)));
    });
    attention("no log-sum-exp", &|a| Arc::make_mut(&mut a.q).iter_mut().for_each(|q| q.lse = None));
    attention("a wrong stride of queries", &|a| Arc::make_mut(&mut a.q)[0].q.head_rows += 1);
    attention("a wrong stride of results", &|a| {
        Arc::make_mut(&mut a.q).iter_mut().filter_map(|q| q.out.as_mut()).for_each(|o| o.head_rows += 1);
    });
    attention("fewer queries", &|a| Arc::make_mut(&mut a.q)[0].rows.len -= 1);
    attention("fewer keys", &|a| {
        Arc::make_mut(&mut a.kv).iter_mut().take(1).for_each(|p| p.rows.len -= 1);
    });
    attention("one head left out", &|a| a.heads -= 1);
    attention("one piece of queries left out", &|a| {
        if a.q.len() > 1 {
            Arc::make_mut(&mut a.q).pop();
        }
    });
    attention("one piece of keys left out", &|a| {
        if a.kv.len() > 1 {
            Arc::make_mut(&mut a.kv).pop();
        }
    });
    attention("another scale", &|a| scoring(a, &|s| s.scale *= 1.01));
    attention("another softcap", &|a| scoring(a, &|s| s.softcap /= 2.0));
    attention("a mask of one key more", &|a| {
        scoring(a, &|s| s.seen.window[1] = s.seen.window[1].map(|high| high + 1));
    });
    attention("a mask of one key less", &|a| {
        scoring(a, &|s| s.seen.window[1] = s.seen.window[1].map(|high| high - 1));
    });
    attention("the counter elsewhere", &|a| {
        a.marks.iter_mut().for_each(|m| m.counter = Address { base: Base::Arena, offset: 0 });
    });
}

fn copies(plant: Plant<'_, [Runs; 2]>) {
    plant("fewer bytes copied", &|both| both.iter_mut().for_each(|r| r.bytes -= 4));
    plant("more bytes copied", &|both| both.iter_mut().for_each(|r| r.bytes += 4));
    plant("fewer runs copied", &|both| both.iter_mut().for_each(|r| r.count -= 1));
    plant("a wrong stride of the source", &|both| both[0].stride += 4);
    plant("a wrong stride of the target", &|both| both[1].stride += 4);
    plant("copied from elsewhere", &|both| both[0].at = both[0].at.plus(4));
    plant("copied to elsewhere", &|both| both[1].at = both[1].at.plus(4));
    plant("copied the other way", &|both| both.swap(0, 1));
}

type Change<'a> = &'a dyn Fn(&mut Vec<Message>, &mut Vec<Message>, &mut usize);

fn messages(plant: &mut dyn FnMut(&'static str, Change<'_>)) {
    let part = |messages: &mut Vec<Message>, change: &dyn Fn(&mut Runs)| {
        if let Some(part) = messages.first_mut().and_then(|m| m.parts.first_mut()) {
            change(part);
        }
    };
    plant("fewer bytes sent than received", &|s, _, _| part(s, &|r| r.bytes -= 4));
    plant("more bytes received than sent", &|_, r, _| part(r, &|r| r.bytes += 4));
    plant("a message to another rank", &|s, r, _| {
        let peers = s.iter().chain(&*r).map(|m| m.peer).max().unwrap_or(0);
        s.iter_mut().for_each(|m| m.peer = (m.peer + 1) % (peers + 1));
    });
    plant("a message left out", &|_, r, _| {
        r.pop();
    });
    plant("a step of another group", &|_, _, group| *group += 100);
    plant("sent from elsewhere", &|s, _, _| part(s, &|r| r.at = r.at.plus(4)));
    plant("received elsewhere", &|_, r, _| part(r, &|r| r.at = r.at.plus(4)));
    plant("sent with a wrong stride", &|s, _, _| {
        part(s, &|r| r.stride += if r.count > 1 { 4 } else { 0 });
    });
}

fn of_program(programs: &[Program], rank: usize, all: &mut Vec<Fault>) {
    let mut plant = |kind, change: &dyn Fn(&mut Program)| {
        let mut changed = programs.to_vec();
        change(&mut changed[rank]);
        if changed[rank] != programs[rank] {
            let place = format!("rank {rank}");
            all.push(Fault { kind, place, programs: changed, call: String::new(), told: ANY });
        }
    };
    plant("an arena too small", &|p| {
        let added = p.zeroed.iter().chain(&p.scratch).filter(|r| r.bytes > 0).map(|r| r.offset).min();
        p.arena_bytes = added.unwrap_or(p.arena_bytes).saturating_sub(16);
    });
    plant("counters within the slots", &|p| p.zeroed.iter_mut().for_each(|r| r.offset = 0));
    plant("scratch within the slots", &|p| p.scratch.iter_mut().for_each(|r| r.offset = 0));
    plant("counters that are not cleared", &|p| p.zeroed.iter_mut().for_each(|r| r.bytes = 0));
}
