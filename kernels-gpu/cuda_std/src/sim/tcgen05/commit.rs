//! What a thread has issued to the tensor cores, in its order, and the commits that an mbarrier is told of.
use super::copy::Copy;
use super::product::Product;
use crate::sim::Delivery;
use crate::sim::block::{Block, Checked};
use crate::sim::clock::MAX_CLOCK;
use crate::sim::error::Kind;
use crate::sim::mbarrier::BYTES;
use std::collections::VecDeque;
use std::rc::Rc;

/// What is to be done next for a thread.
pub(super) enum Item {
    Product(Product),
    Copy(Copy),
    Commit(Commit),
}

/// An arrival at mbarriers.
pub(super) struct Commit {
    mbarriers: Vec<usize>,
    time: u32,
    /// What the thread had seen.
    seen: Rc<[u32]>,
    site: u16,
}

/// A thread that issues.
pub(super) struct Issuer {
    thread: u32,
    slot: u32,
    committed: u32,
    queue: VecDeque<Item>,
    /// The first since the last commit, and how many.
    uncommitted: Option<(u16, u32)>,
}

impl Issuer {
    /// Site of the first product or copy that no commit covers, and how many there are.
    pub fn uncommitted(&self) -> Option<(u16, u32)> {
        self.uncommitted
    }

    fn commits(&self) -> impl Iterator<Item = &Commit> {
        self.queue.iter().filter_map(|item| if let Item::Commit(commit) = item { Some(commit) } else { None })
    }
}

impl Block<'_> {
    /// The slot in the clocks of what `thread` issues.
    pub(super) fn issuer_slot(&mut self, thread: u32) -> Checked<u32> {
        if let Some(issuer) = self.tensor.issuers.get(&thread) {
            return Ok(issuer.slot);
        }
        let slot = self.tensor_slot(thread)?;
        let issuer = Issuer { thread, slot, committed: 0, queue: VecDeque::new(), uncommitted: None };
        self.tensor.issuers.insert(thread, issuer);
        Ok(slot)
    }

    /// The time of what the current thread issues now.
    pub(super) fn issue_time(&self) -> Checked<u32> {
        let committed = self.tensor.issuers.get(&self.current).map_or(0, |issuer| issuer.committed);
        if committed + 1 >= MAX_CLOCK {
            return Err(self.error(Kind::BoundExceeded, format!("a thread made {MAX_CLOCK} commits")));
        }
        Ok(committed + 1)
    }

    /// The current thread has issued something, of which `item` is still to be done.
    pub(super) fn issued(&mut self, site: u16, item: Option<Item>) -> Checked<()> {
        self.issuer_slot(self.current)?;
        if let Some(issuer) = self.tensor.issuers.get_mut(&self.current) {
            issuer.uncommitted.get_or_insert((site, 0)).1 += 1;
            issuer.queue.extend(item);
        }
        Ok(())
    }

    /// `tcgen05.commit` to the mbarrier at `address`, here or with `ranks` in those blocks of the cluster.
    pub fn tensor_commit(&mut self, site: u16, group: u32, address: u32, ranks: Option<u16>) -> Checked<()> {
        self.tensor_group(group)?;
        let thread = self.current;
        let own = 1 << self.rank_of(thread);
        let ranks = u32::from(ranks.unwrap_or(own));
        if ranks == 0 || ranks >> self.cluster != 0 {
            let detail = format!("ranks {ranks:#b} of a cluster of {}", self.cluster);
            return Err(self.error(Kind::BadOperand, detail));
        }
        let time = self.issue_time()?;
        self.issuer_slot(thread)?;
        let mut mbarriers = Vec::new();
        for rank in (0..self.cluster).filter(|rank| ranks >> rank & 1 != 0) {
            let mapped = self.map_address(address, rank)?;
            let offset = self.cluster_range(mapped, BYTES, BYTES)?;
            mbarriers.push(self.mbarrier_for_commit(site, offset)?);
        }
        let commit = Commit { mbarriers, time, seen: self.clocks.seen(thread), site };
        if let Some(issuer) = self.tensor.issuers.get_mut(&thread) {
            (issuer.committed, issuer.uncommitted) = (time, None);
            if self.launch.options.delivery == Delivery::Latest {
                issuer.queue.push_back(Item::Commit(commit));
                return Ok(());
            }
        }
        self.arrive_commit(thread, &commit)
    }

    fn arrive_commit(&mut self, thread: u32, commit: &Commit) -> Checked<()> {
        let slot = self.issuer_slot(thread)?;
        commit.mbarriers.iter().try_for_each(|&index| self.mbarrier_arrive_as(index, slot, commit.time, &commit.seen))
    }

    /// Whether a commit to the mbarrier of that number is to come.
    pub fn commits_to(&self, mbarrier: usize) -> bool {
        self.tensor.issuers.values().flat_map(Issuer::commits).any(|commit| commit.mbarriers.contains(&mbarrier))
    }

    /// Thread and site of a commit that is to come to a block.
    pub(super) fn commit_to_come(&self, rank: u32) -> Option<(u32, u16)> {
        let of_rank = |&index: &usize| self.rank_of_offset(self.mbarriers.all[index].offset) == rank;
        self.tensor.issuers.values().find_map(|issuer| {
            let commit = issuer.commits().find(|commit| commit.mbarriers.iter().any(of_rank))?;
            Some((issuer.thread, commit.site))
        })
    }

    /// No thread can run: does what one thread has issued up to its next commit. False: there is none.
    pub fn commit_late(&mut self) -> bool {
        let ready = |issuer: &&Issuer| issuer.commits().next().is_some();
        let mut issuers = self.tensor.issuers.values();
        let newest = self.launch.options.seed % 2 == 1;
        let issuer = if newest { issuers.rev().find(ready) } else { issuers.find(ready) };
        let Some(thread) = issuer.map(|issuer| issuer.thread) else { return false };
        loop {
            let item = self.tensor.issuers.get_mut(&thread).and_then(|issuer| issuer.queue.pop_front());
            match item {
                None => return false,
                Some(Item::Product(product)) => self.compute_tensor(&product),
                Some(Item::Copy(copy)) => self.copy_to_lanes(&copy),
                Some(Item::Commit(commit)) => {
                    let current = std::mem::replace(&mut self.current, thread);
                    let site = std::mem::replace(&mut self.threads[thread as usize].site, commit.site);
                    let outcome = self.arrive_commit(thread, &commit);
                    if let Err(error) = outcome {
                        self.failure.get_or_insert(error);
                        return false;
                    }
                    self.threads[thread as usize].site = site;
                    self.current = current;
                    return true;
                }
            }
        }
    }
}
