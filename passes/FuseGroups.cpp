// Fusion by one walk over the events.
//
// A group is computed where its last member stands, so earlier members move down past what is between. A group stays
// *open* while every event seen since its members has no hazard with them; then a later group may join it, and open
// groups may be joined with each other. The first event with a hazard that does not join closes the group. So groups
// are convex and ordered by their last members, whatever is merged.
#include "passes/Domain.h"
#include "passes/ExprBuilder.h"
#include "passes/Passes.h"
#include "passes/View.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;

namespace terra::passes {

#define GEN_PASS_DEF_FUSEGROUPS
#include "passes/Passes.h.inc"

namespace {

struct Written {
  View view;
  SmallVector<Reduced, 1> reduced; ///< what the value depends on; at most one for anything that may be extended
};

/// What matters of a group for merging.
struct Group {
  SmallVector<ir::GroupOp> members; ///< in event order
  SmallVector<ir::GroupOp> parts;   ///< of other groups, computed by the same instruction
  SmallVector<View> reads;
  SmallVector<Written> writes;
  SmallVector<Reduced, 1> reduced;  ///< distinct, over all writes
  int64_t numel = 1;
  Cuts cuts;
  int64_t ops = 0;
  bool open = true, nested = true, apart = true;

  int64_t first() { return members.front().getEvents().front(); }
  int64_t last() { return members.back().getEvents().back(); }
  llvm::SmallSetVector<Value, 8> slots() const {
    llvm::SmallSetVector<Value, 8> set;
    for (const View &v : reads)
      set.insert(v.slot);
    for (const Written &w : writes)
      set.insert(w.view.slot);
    return set;
  }
  bool writesSlot(Value slot) const {
    return llvm::any_of(writes, [&](const Written &w) { return w.view.slot == slot; });
  }
  bool readsSlot(Value slot) const {
    return llvm::any_of(reads, [&](const View &v) { return v.slot == slot; });
  }
};

void addReduced(SmallVectorImpl<Reduced> &set, const Reduced &range) {
  if (!range.empty() && !llvm::is_contained(set, range))
    set.push_back(range);
}

/// Reductions that `value` depends on, within one group's body, but for those that are minor in it.
void collectReduced(Value value, int64_t numel, SmallVectorImpl<Reduced> &set, llvm::SmallDenseSet<Value> &seen) {
  Operation *op = value.getDefiningOp();
  if (!op || !seen.insert(value).second)
    return;
  SmallVector<Reduced> own = reductionsOf(op);
  if (!own.empty() && !isMinor(op, numel))
    addReduced(set, own[cast<OpResult>(value).getResultNumber()]);
  for (Value operand : op->getOperands())
    if (isa<RankedTensorType>(operand.getType()))
      collectReduced(operand, numel, set, seen);
}

Group describe(ir::GroupOp op) {
  Group group;
  group.members.push_back(op);
  group.numel = largestNumel(op.getBody().front());
  op.walk([&](Operation *inner) {
    group.ops += inner != op;
    if (auto read = dyn_cast<ir::ReadOp>(inner))
      group.reads.push_back(View::of(read));
    if (auto write = dyn_cast<ir::WriteOp>(inner)) {
      Written written{View::of(write), {}};
      llvm::SmallDenseSet<Value> seen;
      collectReduced(write.getValue(), group.numel, written.reduced, seen);
      for (const Reduced &r : written.reduced)
        addReduced(group.reduced, r);
      group.writes.push_back(std::move(written));
    }
  });
  op.walk([&](Operation *inner) {
    for (Value v : inner->getResults())
      if (tensorType(v).getNumElements() == group.numel) {
        auto cuts = unite(group.cuts, cutsOf(tensorType(v).getShape()), group.numel);
        group.nested &= cuts.has_value();
        if (cuts)
          group.cuts = *cuts;
      }
  });
  return group;
}

bool hazard(const Group &group, ValueRange reads, ValueRange writes) {
  return llvm::any_of(reads, [&](Value s) { return group.writesSlot(s); }) ||
         llvm::any_of(writes, [&](Value s) { return group.writesSlot(s) || group.readsSlot(s); });
}

bool hazard(const Group &group, const Group &later) {
  return llvm::any_of(later.reads, [&](const View &v) { return group.writesSlot(v.slot); }) ||
         llvm::any_of(later.writes,
                      [&](const Written &w) { return group.writesSlot(w.view.slot) || group.readsSlot(w.view.slot); });
}

/// `later`'s views of slots that `earlier` touches can be turned into SSA.
bool viewsFit(const Group &earlier, const Group &later) {
  for (const Written &w : earlier.writes) {
    for (const View &r : later.reads)
      if (r.slot == w.view.slot && !disjoint(w.view, r) && !forwardedShape(w.view, r))
        return false;
    for (const Written &w2 : later.writes)
      if (!disjoint(w.view, w2.view) && !sameView(w.view, w2.view))
        return false;
  }
  for (const View &r : earlier.reads)
    for (const Written &w2 : later.writes)
      if (!disjoint(r, w2.view) && !sameView(r, w2.view))
        return false;
  return true;
}

/// `later` works on the result of `earlier`'s reductions, one element for each that was kept.
bool worksOnReduced(const Group &earlier, const Group &later) {
  if (!later.reduced.empty() || earlier.reduced.size() != 1 || later.numel >= earlier.numel)
    return false;
  int64_t kept = earlier.numel;
  for (auto [inner, outer] : earlier.reduced.front())
    kept /= outer / inner;
  if (kept != later.numel)
    return false;
  return llvm::any_of(later.reads, [&](const View &r) {
    return llvm::any_of(earlier.writes, [&](const Written &w) {
      return w.view.slot == r.slot && !w.reduced.empty() && w.view.numel() == later.numel;
    });
  });
}

/// A few numbers' arithmetic, as between a loss and its gradient: it may be done beside anything.
bool isScalar(const Group &group) { return group.numel == 1 && group.reduced.empty(); }

/// They read one large operand in common, or one reads what the other writes.
bool related(const Group &earlier, const Group &later) {
  if (hazard(earlier, later))
    return true;
  for (const View &a : earlier.reads)
    for (const View &b : later.reads)
      if (a.slot == b.slot && a.numel() == earlier.numel && b.numel() == later.numel)
        return true;
  return false;
}

class Fuser {
public:
  Fuser(int64_t maxOps, int64_t maxSlots) : maxOps_(maxOps), maxSlots_(maxSlots) {}

  void visit(ir::GroupOp op) {
    auto group = std::make_unique<Group>(describe(op));
    const Group single = *group;
    SmallVector<Group *> candidates = touching(single);
    for (Group *earlier : candidates)
      if (earlier->open && canMerge(*earlier, *group, single)) {
        merge(*earlier, *group);
        earlier->open = false;
        earlier->members.clear();
        ++merged;
      }
    for (Group *earlier : candidates)
      if (earlier->open && hazard(*earlier, single))
        earlier->open = false;
    for (Value slot : group->slots())
      bySlot_[slot].push_back(group.get());
    groups.push_back(std::move(group));
  }

  void visit(ir::ExternOp op) {
    if (op.getViews())
      return;
    for (ValueRange slots : {ValueRange(op.getReads()), ValueRange(op.getWrites())})
      for (Value slot : slots)
        for (Group *group : bySlot_[slot])
          if (group->open && hazard(*group, op.getReads(), op.getWrites()))
            group->open = false;
  }

  std::vector<std::unique_ptr<Group>> groups;
  int64_t merged = 0;

private:
  /// Open groups that touch a slot of `group`, newest first.
  SmallVector<Group *> touching(const Group &group) {
    llvm::SmallSetVector<Group *, 8> found;
    for (Value slot : group.slots()) {
      auto &list = bySlot_[slot];
      llvm::erase_if(list, [](Group *g) { return !g->open; });
      found.insert(list.begin(), list.end());
    }
    SmallVector<Group *> sorted(found.begin(), found.end());
    llvm::sort(sorted, [](Group *a, Group *b) { return a->last() > b->last(); });
    return sorted;
  }

  bool canMerge(Group &earlier, Group &group, const Group &single) {
    if (!related(earlier, single) || !earlier.nested || !group.nested || earlier.ops + group.ops > maxOps_)
      return false;
    auto slots = earlier.slots();
    for (Value slot : group.slots())
      slots.insert(slot);
    if (int64_t(slots.size()) > maxSlots_ || !viewsFit(earlier, single))
      return false;
    bool fits = earlier.numel == group.numel ? unite(earlier.cuts, group.cuts, group.numel).has_value()
                                             : isScalar(earlier) || isScalar(group) || worksOnReduced(earlier, group);
    return fits && reductionsFit(earlier, group, single);
  }

  /// Every written value still depends on one way of reducing at most.
  static bool reductionsFit(const Group &earlier, const Group &group, const Group &single) {
    SmallVector<Reduced, 1> all(earlier.reduced);
    for (const Reduced &r : group.reduced)
      addReduced(all, r);
    if (all.size() > std::max<size_t>({1, earlier.reduced.size(), group.reduced.size()}))
      return false;
    SmallVector<Reduced, 1> inherited = inheritedReductions(earlier, single);
    for (const Written &w : single.writes) {
      SmallVector<Reduced, 1> joined(inherited);
      for (const Reduced &r : w.reduced)
        addReduced(joined, r);
      if (joined.size() > 1)
        return false;
    }
    return true;
  }

  static SmallVector<Reduced, 1> inheritedReductions(const Group &earlier, const Group &single) {
    SmallVector<Reduced, 1> inherited;
    for (const View &r : single.reads)
      for (const Written &w : earlier.writes)
        if (w.view.slot == r.slot)
          for (const Reduced &range : w.reduced)
            addReduced(inherited, range);
    return inherited;
  }

  /// Puts `earlier` in front of `group`.
  static void merge(Group &earlier, Group &group) {
    SmallVector<Reduced, 1> inherited = inheritedReductions(earlier, group);
    for (Written &w : group.writes)
      for (const Reduced &r : inherited)
        addReduced(w.reduced, r);
    group.members.append(earlier.members.begin(), earlier.members.end());
    llvm::sort(group.members, [](ir::GroupOp a, ir::GroupOp b) { return a.getEvents().back() < b.getEvents().back(); });
    group.reads.append(earlier.reads.begin(), earlier.reads.end());
    SmallVector<Written> writes(earlier.writes);
    writes.append(group.writes.begin(), group.writes.end());
    group.writes = std::move(writes);
    for (const Reduced &r : earlier.reduced)
      addReduced(group.reduced, r);
    if (earlier.numel >= group.numel) {
      group.cuts = earlier.numel == group.numel ? *unite(earlier.cuts, group.cuts, group.numel) : earlier.cuts;
      group.numel = earlier.numel;
    }
    group.ops += earlier.ops;
  }

  int64_t maxOps_, maxSlots_;
  llvm::DenseMap<Value, SmallVector<Group *>> bySlot_;
};

/// Parts of one event (a call on lists) in different groups: one instruction must compute them all. Each group goes
/// into the last one that has an event in common. What they do to memory is apart, or the whole is left to the host.
class PartsOfEvents {
public:
  void unite(std::vector<std::unique_ptr<Group>> &groups) {
    for (auto &group : groups) {
      if (group->members.empty())
        continue;
      Group *root = group.get();
      for (ir::GroupOp member : group->members)
        root = join(root, byEvent_.try_emplace(member.getEvents().front(), root).first->second);
    }
    for (auto &group : groups)
      if (Group *root = find(group.get()); root != group.get())
        move(*group, *root);
  }

private:
  Group *find(Group *group) {
    while (Group *next = into_.lookup(group))
      group = next;
    return group;
  }

  Group *join(Group *a, Group *b) {
    a = find(a), b = find(b);
    if (a == b)
      return a;
    if (a->last() < b->last())
      std::swap(a, b);
    return into_[b] = a;
  }

  void move(Group &part, Group &whole) {
    whole.apart &= !hazard(part, whole) && !hazard(whole, part);
    whole.parts.append(part.members.begin(), part.members.end());
    whole.reads.append(part.reads.begin(), part.reads.end());
    whole.writes.append(part.writes.begin(), part.writes.end());
    part.members.clear();
  }

  llvm::DenseMap<int64_t, Group *> byEvent_;
  llvm::DenseMap<Group *, Group *> into_;
};

/// One group op, at the place of the last member.
ir::GroupOp materialise(Group &group) {
  ir::GroupOp last = group.members.back();
  if (!group.apart)
    last->setAttr("failed", UnitAttr::get(last.getContext()));
  if (group.members.size() == 1 && group.parts.empty())
    return last;
  SmallVector<int64_t> events;
  SmallVector<Location> locations;
  Block *body = &last.getBody().front();
  Operation *anchor = body->empty() ? nullptr : &body->front();
  group.members.insert(group.members.begin(), group.parts.begin(), group.parts.end());
  for (ir::GroupOp member : group.members) {
    llvm::append_range(events, member.getEvents());
    locations.push_back(member.getLoc());
    if (member == last)
      continue;
    Block *source = &member.getBody().front();
    auto where = anchor ? anchor->getIterator() : body->end();
    body->getOperations().splice(where, source->getOperations());
    member.erase();
  }
  llvm::sort(events);
  events.erase(llvm::unique(events), events.end());
  last.setEvents(events);
  last->setLoc(FusedLoc::get(last.getContext(), locations));
  return last;
}

struct FuseGroupsPass : impl::FuseGroupsBase<FuseGroupsPass> {
  using FuseGroupsBase::FuseGroupsBase;

  void runOnOperation() override {
    Fuser fuser(maxOps, maxSlots);
    for (Operation &op : llvm::make_early_inc_range(getOperation().getBody().front())) {
      if (auto group = dyn_cast<ir::GroupOp>(op))
        fuser.visit(group);
      else if (auto call = dyn_cast<ir::ExternOp>(op))
        fuser.visit(call);
    }
    numMerged += fuser.merged;
    PartsOfEvents().unite(fuser.groups);
    for (auto &group : fuser.groups)
      if (!group->members.empty())
        materialise(*group);
    for (auto group : getOperation().getBody().getOps<ir::GroupOp>())
      chooseFusedAway(group);
  }

  void chooseFusedAway(ir::GroupOp group) {
    SmallVector<int64_t> away;
    llvm::SmallSetVector<Value, 8> slots;
    group.walk([&](ir::WriteOp write) { slots.insert(write.getSlot()); });
    for (Value value : slots) {
      auto slot = value.getDefiningOp<ir::SlotOp>();
      if (slot.getExternal() || !slot.getDeath() || int64_t(*slot.getDeath()) > group.getEvents().back() + patience)
        continue;
      bool inside = llvm::all_of(slot->getUsers(), [&](Operation *user) {
        auto call = dyn_cast<ir::ExternOp>(user);
        return (call && call.getViews()) || group->isProperAncestor(user);
      });
      if (inside)
        away.push_back(int64_t(slot.getIndex()));
    }
    llvm::sort(away);
    numFusedAway += int64_t(away.size());
    if (!away.empty())
      group.setFusedAway(away);
  }
};

} // namespace
} // namespace terra::passes
