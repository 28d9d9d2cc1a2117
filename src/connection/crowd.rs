//! Keeps places free on a listener with few of them, so that clients which send nothing do not keep others out.
//!
//! While more connections are open than the crowd may have, the one that has waited longest for a request is closed.
//! Connections with a request stay. Each connection looks after each of its steps, as every step may be the one after
//! which it waits.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::Connection;

/// The open connections of one thread. Clones share them.
#[derive(Clone)]
pub(super) struct Crowd {
    max: usize,
    members: Rc<RefCell<Vec<Member>>>,
}

#[derive(Clone)]
struct Member {
    connection: Rc<RefCell<Connection>>,
    /// Wakes its task. No task needs to be woken for its first step.
    waker: Waker,
}

impl Crowd {
    /// A crowd that is too large with more than `max` connections.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            members: Rc::default(),
        }
    }

    /// Adds `connection` until the returned value is dropped.
    pub(super) fn enter(&self, connection: &Rc<RefCell<Connection>>) -> Place {
        self.members.borrow_mut().push(Member {
            connection: Rc::clone(connection),
            waker: Waker::noop().clone(),
        });
        Place {
            crowd: self.clone(),
            connection: Rc::clone(connection),
        }
    }

    /// The connection that has to leave, if there are too many.
    fn leaving(&self) -> Option<Member> {
        let members = self.members.borrow();
        if members.len() <= self.max {
            return None;
        }
        let waiting = members.iter().filter_map(|member| {
            let since = member.connection.borrow().waiting_since()?;
            Some((since, member))
        });
        let (_, longest) = waiting.min_by_key(|(since, _)| *since)?;
        Some(longest.clone())
    }
}

/// One connection of a crowd.
pub(super) struct Place {
    crowd: Crowd,
    connection: Rc<RefCell<Connection>>,
}

impl Place {
    /// Runs `serving`, which serves this connection. `None` if the connection had to leave.
    pub(super) async fn hold<F: Future>(&self, serving: F) -> Option<F::Output> {
        let mut serving = pin!(serving);
        poll_fn(|cx| {
            if let Poll::Ready(served) = serving.as_mut().poll(cx) {
                return Poll::Ready(Some(served));
            }
            self.keep_waker(cx.waker());
            match self.crowd.leaving() {
                Some(member) if Rc::ptr_eq(&member.connection, &self.connection) => {
                    self.connection.borrow().count_leaving();
                    Poll::Ready(None)
                }
                Some(member) => {
                    member.waker.wake();
                    Poll::Pending
                }
                None => Poll::Pending,
            }
        })
        .await
    }

    fn keep_waker(&self, waker: &Waker) {
        let mut members = self.crowd.members.borrow_mut();
        let mut members = members.iter_mut();
        if let Some(member) = members.find(|it| Rc::ptr_eq(&it.connection, &self.connection)) {
            member.waker.clone_from(waker);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut members = self.crowd.members.borrow_mut();
        members.retain(|member| !Rc::ptr_eq(&member.connection, &self.connection));
        drop(members);
        // Several connections may have woken this one, each to make room for itself.
        if let Some(member) = self.crowd.leaving() {
            member.waker.wake();
        }
    }
}
