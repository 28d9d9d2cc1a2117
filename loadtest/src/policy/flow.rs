//! Minimum-cost flow from left to right along a line of nodes, by the network simplex method.
//!
//! Each cut between two neighbours must be crossed by a given amount. The flow may take the line, which
//! is free and unbounded, or arcs that jump ahead, each with a capacity and a profit per unit. The
//! result is the flow of highest profit.
//!
//! Method: R. K. Ahuja, T. L. Magnanti, J. B. Orlin, "Network Flows", 1993, chapter 11. It starts
//! with everything on the line, which is a strongly feasible tree. Each step keeps the tree strongly
//! feasible, so with integers the method terminates.

/// An arc that jumps from node `from` ahead to node `to`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Jump {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) capacity: i64,
    /// Per unit.
    pub(crate) profit: i64,
}

/// An optimal flow and the prices that prove it.
#[derive(Debug)]
pub(crate) struct Flow {
    /// On each jump.
    pub(crate) amounts: Vec<i64>,
    /// The loss of profit with one unit less at each cut; never negative.
    pub(crate) prices: Vec<i64>,
}

/// Finds the flow of highest profit. It crosses cut `j`, between the nodes `j` and `j + 1`, with
/// `cuts[j]` ≥ 0 units.
pub(crate) fn highest_profit(cuts: &[i64], jumps: &[Jump]) -> Flow {
    let mut simplex = Simplex::new(cuts, jumps);
    while let Some(arc) = simplex.entering() {
        simplex.pivot(arc);
    }
    Flow {
        amounts: simplex.arcs[cuts.len()..]
            .iter()
            .map(|it| it.flow)
            .collect(),
        prices: simplex
            .nodes
            .windows(2)
            .map(|pair| pair[0].potential - pair[1].potential)
            .collect(),
    }
}

const UNBOUNDED: i64 = i64::MAX / 4;

/// No node, or no arc.
const NONE: usize = usize::MAX;

struct Arc {
    from: usize,
    to: usize,
    capacity: i64,
    cost: i64,
    flow: i64,
    in_tree: bool,
}

/// A node and its place in the spanning tree. The siblings are a doubly linked list.
struct Node {
    parent: usize,
    /// The arc to or from its parent.
    via: usize,
    depth: u32,
    /// So that on each arc of the tree: cost + potential of `from` = potential of `to`.
    potential: i64,
    first_child: usize,
    next: usize,
    before: usize,
}

struct Simplex {
    /// First those of the line, then the jumps.
    arcs: Vec<Arc>,
    nodes: Vec<Node>,
    /// Entering arcs are searched for in blocks. This is where the next block begins.
    cursor: usize,
    block: usize,
    open: Vec<usize>,
}

/// The arc that bounds a push around a cycle.
#[derive(Clone, Copy)]
enum Stop {
    /// The entering arc itself.
    Entering,
    /// The arc between this node and its parent, before the entering arc.
    Before(usize),
    /// The arc between this node and its parent, after the entering arc.
    After(usize),
}

impl Simplex {
    fn new(cuts: &[i64], jumps: &[Jump]) -> Self {
        let last = cuts.len();
        let line = cuts.iter().enumerate().map(|(from, amount)| Arc {
            from,
            to: from + 1,
            capacity: UNBOUNDED,
            cost: 0,
            flow: *amount,
            in_tree: true,
        });
        let ahead = jumps.iter().map(|jump| Arc {
            from: jump.from,
            to: jump.to,
            capacity: jump.capacity,
            cost: -jump.profit,
            flow: 0,
            in_tree: false,
        });
        let arcs: Vec<_> = line.chain(ahead).collect();
        let nodes = (0..=last).map(|node| Node {
            parent: if node == last { NONE } else { node + 1 },
            via: if node == last { NONE } else { node },
            depth: u32::try_from(last - node).unwrap_or(u32::MAX),
            potential: 0,
            first_child: if node == 0 { NONE } else { node - 1 },
            next: NONE,
            before: NONE,
        });
        Self {
            nodes: nodes.collect(),
            cursor: 0,
            block: arcs.len().isqrt().max(16),
            arcs,
            open: Vec::new(),
        }
    }

    /// The cost of one unit more on the arc, along the arc and back through the tree.
    fn reduced_cost(&self, arc: &Arc) -> i64 {
        arc.cost + self.nodes[arc.from].potential - self.nodes[arc.to].potential
    }

    /// The arc of a block that gains most per unit. `None` when no arc gains anything.
    fn entering(&mut self) -> Option<usize> {
        let (mut best, mut gain) = (None, 0);
        let total = self.arcs.len();
        for searched in 1..=total {
            let arc = &self.arcs[self.cursor];
            if !arc.in_tree {
                let cost = self.reduced_cost(arc);
                let gained = if arc.flow == 0 { -cost } else { cost };
                if gained > gain {
                    (best, gain) = (Some(self.cursor), gained);
                }
            }
            self.cursor = (self.cursor + 1) % total;
            if best.is_some() && searched % self.block == 0 {
                break;
            }
        }
        best
    }

    /// Pushes as much as possible around the cycle that `entering` closes with the tree. Then one arc
    /// that bounds the push leaves the tree. It is the last such arc, seen from the apex, which keeps
    /// the tree strongly feasible.
    fn pivot(&mut self, entering: usize) {
        let arc = &self.arcs[entering];
        // The push goes down to `first`, over the arc to `second`, and up again.
        let (first, second) = if arc.flow == 0 {
            (arc.from, arc.to)
        } else {
            (arc.to, arc.from)
        };
        let apex = self.apex(first, second);
        let mut amount = arc.capacity;
        let mut stop = Stop::Entering;
        let mut node = first;
        while node != apex {
            let residual = self.residual(node, false);
            if residual < amount {
                (amount, stop) = (residual, Stop::Before(node));
            }
            node = self.nodes[node].parent;
        }
        node = second;
        while node != apex {
            let residual = self.residual(node, true);
            if residual <= amount {
                (amount, stop) = (residual, Stop::After(node));
            }
            node = self.nodes[node].parent;
        }
        self.push(entering, first, second, apex, amount);
        match stop {
            Stop::Entering => {}
            Stop::Before(node) => self.move_subtree(node, first, second, entering),
            Stop::After(node) => self.move_subtree(node, second, first, entering),
        }
    }

    fn apex(&self, mut a: usize, mut b: usize) -> usize {
        while a != b {
            if self.nodes[a].depth >= self.nodes[b].depth {
                a = self.nodes[a].parent;
            } else {
                b = self.nodes[b].parent;
            }
        }
        a
    }

    /// How much more can flow between a node and its parent.
    fn residual(&self, node: usize, up: bool) -> i64 {
        let arc = &self.arcs[self.nodes[node].via];
        if (arc.from == node) == up {
            arc.capacity - arc.flow
        } else {
            arc.flow
        }
    }

    fn push(&mut self, entering: usize, first: usize, second: usize, apex: usize, amount: i64) {
        if amount == 0 {
            return;
        }
        let arc = &mut self.arcs[entering];
        arc.flow += if arc.from == first { amount } else { -amount };
        for (mut node, up) in [(first, false), (second, true)] {
            while node != apex {
                let arc = &mut self.arcs[self.nodes[node].via];
                arc.flow += if (arc.from == node) == up {
                    amount
                } else {
                    -amount
                };
                node = self.nodes[node].parent;
            }
        }
    }

    /// Detaches the subtree of `top` from its parent, and attaches it by its node `inside` to `outside`.
    fn move_subtree(&mut self, top: usize, inside: usize, outside: usize, entering: usize) {
        self.arcs[self.nodes[top].via].in_tree = false;
        self.arcs[entering].in_tree = true;
        let (mut node, mut parent, mut via) = (inside, outside, entering);
        loop {
            let (old_parent, old_via) = (self.nodes[node].parent, self.nodes[node].via);
            self.unlink(node);
            self.link(node, parent, via);
            if node == top {
                break;
            }
            (parent, via, node) = (node, old_via, old_parent);
        }
        let arc = &self.arcs[entering];
        let cost = self.reduced_cost(arc);
        let shift = if arc.from == inside { -cost } else { cost };
        self.open.push(inside);
        while let Some(node) = self.open.pop() {
            let depth = self.nodes[self.nodes[node].parent].depth + 1;
            self.nodes[node].potential += shift;
            self.nodes[node].depth = depth;
            let mut child = self.nodes[node].first_child;
            while child != NONE {
                self.open.push(child);
                child = self.nodes[child].next;
            }
        }
    }

    fn unlink(&mut self, node: usize) {
        let Node {
            parent,
            next,
            before,
            ..
        } = self.nodes[node];
        if before == NONE {
            self.nodes[parent].first_child = next;
        } else {
            self.nodes[before].next = next;
        }
        if next != NONE {
            self.nodes[next].before = before;
        }
    }

    fn link(&mut self, node: usize, parent: usize, via: usize) {
        let next = self.nodes[parent].first_child;
        if next != NONE {
            self.nodes[next].before = node;
        }
        self.nodes[parent].first_child = node;
        let moved = &mut self.nodes[node];
        (moved.parent, moved.via) = (parent, via);
        (moved.next, moved.before) = (next, NONE);
    }
}
