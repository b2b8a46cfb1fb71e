"""What a request has while it runs: a slot of the batch, pages of its own, and a share
in cross pages."""

import numpy as np

from antiphon.config.arithmetic import ceil_div
from antiphon.kv.pages import pages_for
from antiphon.scheduler.batch import Batch
from antiphon.scheduler.beam_texts import NewText, no_texts
from antiphon.scheduler.beams import Beams
from antiphon.scheduler.cross_views import CrossChange, CrossInput, Sees
from antiphon.scheduler.plan import NO_NEW_PAGES, Admission, CrossWrite, Fork, NewPages
from antiphon.scheduler.prefixes import PrefixCache
from antiphon.scheduler.request import Request

NO_CROSS_PAGES = np.empty(0, np.int32)


class Residency:
    """Gives requests their slot and pages, and takes them back."""

    def __init__(self, batch: Batch, prefixes: PrefixCache, new_text: NewText = no_texts) -> None:
        self.batch, self.prefixes, self.pages = batch, prefixes, prefixes.pages
        self.cross_pages = self.pages.cross
        self.beams = Beams(batch, self.pages, new_text)

    def fits(self, request: Request, prefix: np.ndarray) -> bool:
        """True if enough pages are free beside those of its `prefix` [pages], and a
        reserve that the running sequences will soon ask for."""
        cross, page_size = request.cross, self.batch.page_size
        reserve = ceil_div(len(self.batch), 4)
        need = pages_for(request.length, page_size) + request.num_slots - 1 + reserve
        if len(prefix):
            need -= len(prefix) - self.pages.num_unused(prefix)
        cached = cross is not None and cross.key in self.cross_pages
        new = 0 if cached else request.cross_pages(page_size)
        if self.cross_pages is not self.pages:
            return need <= self.pages.num_available and new <= self.cross_pages.num_available
        if cross is not None and cached:
            return need <= self.pages.available_beside(cross.key)
        return need + new <= self.pages.num_available

    def enter(
        self, request: Request, prefix: np.ndarray, lane: int = 0
    ) -> tuple[list[Admission], CrossWrite | None]:
        """Admits `request`, which fits, to `lane`, with the cached pages of its
        `prefix` [pages]: to one slot, and to those that its beam search will need.
        Returns also its cross KV if it has any that is not cached: the step that runs
        the request must write it."""
        if len(prefix):
            self.pages.share_blocks(prefix)
        cross_pages, write = self._cross_pages(request.cross)
        page_size = self.batch.page_size
        self_pages = self.pages.allocate(pages_for(request.length, page_size) - len(prefix))
        assert self_pages is not None
        if len(prefix):
            self_pages = np.concatenate([prefix, self_pages])
        self.prefixes.count(request, len(prefix))
        tokens = self.batch.admit(request, self_pages, lane, len(prefix) * page_size)
        self.batch.views.enter(request.slot, request.cross, cross_pages, 0)
        self.prefixes.start(self.batch, request, len(prefix))
        admission = Admission.of(request, tokens, self_pages, self._view(request, cross_pages, 0))
        if request.rules.beams is None:
            return [admission], write
        behind_prompt = self._view(request, cross_pages, request.length)
        others = self.beams.enter(request, admission.seeing(behind_prompt))
        return [admission, *others], write

    def _cross_pages(self, cross: CrossInput | None) -> tuple[np.ndarray, CrossWrite | None]:
        """The pages [pages] of the cross KV of `cross`, and what must be written there."""
        if cross is None:
            return NO_CROSS_PAGES, None
        if cross.key in self.cross_pages:
            return self.cross_pages.share(cross.key), None
        page_size = self.batch.page_size
        pages = self.cross_pages.allocate_keyed(cross.key, cross.num_pages(page_size))
        assert pages is not None
        sources = cross.sources(page_size)
        count = sum(source.length for source in sources)
        if [source.key for source in sources] == [cross.key]:
            return pages, CrossWrite(cross.key, count, pages)
        return pages, CrossWrite(cross.key, count, pages, sources)

    def _view(self, request: Request, pages: np.ndarray, token: int) -> CrossChange:
        """What the sequence of `request`, which has a slot, attends to from `token` on. `pages`: of
        its cross KV."""
        cross = request.cross
        if cross is None:
            return CrossChange(request.slot, pages, 0, Sees.NOTHING)
        return cross.change(request.slot, cross.view_at(token), pages, self.batch.page_size)

    def fork(self, parent: Request, child: Request) -> bool:
        """Gives `child` a slot in the lane of `parent`, which runs, and the pages that
        `parent` has filled with the same tokens; the last one, if it is not full, as a
        copy. False, and nothing done, if there is nothing to share or no room."""
        token_ids, cross = child.token_ids, child.cross
        if not self.batch.num_free or child.inputs != parent.inputs:
            return False
        # The last token's logits choose the next one; others may be read out.
        needed = min([len(token_ids) - 1, *(readout.position for readout in child.readouts)])
        computed = min(_common_len(self.batch, parent.slot, token_ids), needed)
        if (
            not computed or computed < child.inputs_end
        ):  # the child would wait for inputs of its own
            return False
        num_shared, rest = divmod(computed, self.batch.page_size)
        own = self.pages.allocate(pages_for(len(token_ids), self.batch.page_size) - num_shared)
        if own is None:
            return False
        parents_pages = self.batch.self_table[parent.slot]
        self.pages.retain(parents_pages[:num_shared])
        self_pages = np.concatenate([parents_pages[:num_shared], own])
        cross_pages = NO_CROSS_PAGES if cross is None else self.cross_pages.share(cross.key)
        self.batch.admit(child, self_pages, int(self.batch.lane[parent.slot]))
        self.batch.views.enter(child.slot, cross, cross_pages, computed)
        self.prefixes.start(self.batch, child)
        self.batch.computed[child.slot] = computed
        self.batch.forked_after[child.slot] = self.batch.num_plans
        if rest:  # maybe the source is itself a copy that is still to be made
            copies, source = self.batch.page_copies, int(parents_pages[num_shared])
            copies[int(own[0])] = copies.get(source, source)
        view = self._view(child, cross_pages, computed)
        self.batch.forks.append(
            Fork(
                parent.slot, child.slot, child.order, token_ids, child.max_len, child.seed,
                child.rules.stop_ids, self_pages, view.pages, view.length, view.sees,
            )
        )  # fmt: skip
        return True

    def leave(self, request: Request) -> None:
        """Frees the slots and the pages; the request keeps its tokens, but for a beam
        search, which begins anew. Its cross KV stays cached until its pages are needed."""
        if request.rules.beams is None:
            self.pages.release(self.batch.remove(request))
        else:
            self.beams.leave(request)
            self.pages.release(self.batch.remove(request))
            request.forget_tokens()
        if (cross := request.cross) is not None:
            self.cross_pages.release_keyed(cross.key, cross.keep)

    def grow(self, lane: int = 0) -> NewPages | None:
        """Gives a page to every running sequence of `lane` that needs one for its next
        token. None, and nothing done, if there are too few."""
        short = self.batch.slots_short_of_pages(lane)
        if not len(short):
            return NO_NEW_PAGES
        pages = self.pages.allocate(len(short))
        return None if pages is None else NewPages(short, self.batch.add_pages(short, pages), pages)


def _common_len(batch: Batch, slot: int, token_ids: np.ndarray) -> int:
    """How many of the first of `token_ids` [tokens] are those of `slot`, and computed."""
    count = min(len(token_ids), int(batch.computed[slot]))
    differs = batch.tokens[slot, :count] != token_ids[:count]
    return int(differs.argmax()) if differs.any() else count
