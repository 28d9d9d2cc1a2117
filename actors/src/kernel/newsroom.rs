//! Where the news of all children of one supervisor come together, in each child's own order.

use std::collections::VecDeque;

use futures_util::stream::{BoxStream, SelectAll, StreamExt, unfold};
use tokio::sync::mpsc;

use super::exit::Exit;
use super::incarnation::{Ended, News};

/// The news of all children, each under its key.
#[derive(Default)]
pub(super) struct Newsroom {
    incoming: SelectAll<BoxStream<'static, (u64, News)>>,
    /// What came in while the news of another child were awaited.
    kept: VecDeque<(u64, News)>,
}

impl Newsroom {
    pub(super) fn subscribe(&mut self, key: u64, news: mpsc::Receiver<News>) {
        let stream = unfold(Some(news), move |news| async move {
            let mut news = news?;
            match news.recv().await {
                Some(News::Ready) => Some(((key, News::Ready), Some(news))),
                Some(ended) => Some(((key, ended), None)),
                // Whoever watched the child is gone without a word, and the child with it.
                None => {
                    let ended = Ended {
                        exit: Exit::Killed,
                        uptime: None,
                    };
                    Some(((key, News::Ended(ended)), None))
                }
            }
        });
        self.incoming.push(stream.boxed());
    }

    /// The next news of any child; never resolves while there is none to wait for.
    pub(super) async fn next(&mut self) -> (u64, News) {
        match self.kept.pop_front() {
            Some(news) => news,
            None => self.arrival().await,
        }
    }

    /// The next news of the child `key`.
    pub(super) async fn next_of(&mut self, key: u64) -> News {
        if let Some(index) = self.kept.iter().position(|(other, _)| *other == key)
            && let Some((_, news)) = self.kept.remove(index)
        {
            return news;
        }
        loop {
            let (other, news) = self.arrival().await;
            if other == key {
                return news;
            }
            self.kept.push_back((other, news));
        }
    }

    /// Waits for the end of the child `key`.
    pub(super) async fn end_of(&mut self, key: u64) -> Ended {
        loop {
            // The child may say that it is ready before it sees the stop.
            if let News::Ended(ended) = self.next_of(key).await {
                return ended;
            }
        }
    }

    async fn arrival(&mut self) -> (u64, News) {
        match self.incoming.next().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}
