"""Which pages hold the keys and values of each running sequence, by slot: on the device
for steps, and on the host for plans.

Plans tell only changes: an admitted sequence's pages, and the page one grows by.
"""

from collections.abc import Sequence

import numpy as np
import torch

from antiphon.config.arithmetic import round_up
from antiphon.runtime.device import together_to_device
from antiphon.scheduler.beam_plan import BeamMoves
from antiphon.scheduler.cross_views import CrossChange
from antiphon.scheduler.plan import Admission, Fork, NewPages

ALIGNMENT = 32  # elements: kernels are compiled anew for pointers with another alignment


class PageTables:
    """One row for each slot (also the scratch slot): its self pages, then cross pages.

    Entries behind a sequence's last page are any valid page. A CPU has one copy.

        host        [slots, width] int32; its views `self_pages`, `cross_pages`:
                    [slots, pages]
        on_device   [slots, width] int32
        cross_lens  [slots] on the host: encoder tokens that each sequence attends to,
                    at least 1
        sees        [slots] int8 on the device, `Sees` of each; if a decoder asks for it
    """

    def __init__(
        self,
        num_slots: int,
        num_self_pages: int,
        num_cross_pages: int,
        scratch_page: int,
        device: torch.device,
        keeps_sees: bool = False,
        cross_scratch_page: int | None = None,
    ) -> None:
        """`cross_scratch_page`: if cross pages are numbered apart from self pages."""
        self.device, self.cross_start = device, round_up(num_self_pages, ALIGNMENT)
        width = self.cross_start + round_up(num_cross_pages, ALIGNMENT)
        self.host = np.full((num_slots, width), scratch_page, np.int32)
        self._self_columns = slice(0, num_self_pages)
        self._cross_columns = slice(self.cross_start, self.cross_start + num_cross_pages)
        self.self_pages = self.host[:, self._self_columns]
        self.cross_pages = self.host[:, self._cross_columns]
        if cross_scratch_page is not None:
            self.cross_pages[:] = cross_scratch_page
        self.on_device = torch.from_numpy(self.host).to(device)
        self.cross_lens = np.ones(num_slots, np.int32)
        self.sees: torch.Tensor | None = None
        if keeps_sees:
            self.sees = torch.zeros(num_slots, dtype=torch.int8, device=device)

    def views(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Self and cross pages [n, pages] of `rows` [n, width]."""
        return rows[:, self._self_columns], rows[:, self._cross_columns]

    def admit(
        self, entries: Sequence[Admission | Fork], changes: Sequence[CrossChange] = ()
    ) -> None:
        """Writes the rows of slots that have a new owner, and the `changes` of others,
        on the device in one copy. The last one counts where a slot had several."""
        if not (entries or changes):
            return
        for entry in entries:
            self.self_pages[entry.slot, : len(entry.self_pages)] = entry.self_pages
        attended = [CrossChange(e.slot, e.cross_pages, e.cross_len, e.sees) for e in entries]
        self._attend([*attended, *changes])

    def _attend(self, changes: Sequence[CrossChange]) -> None:
        for slot, pages, length, _ in changes:
            self.cross_pages[slot, : len(pages)] = pages
            self.cross_lens[slot] = max(1, length)
        last = {change.slot: change.sees for change in changes}
        slots, sees = np.array([*last]), np.array([*last.values()], np.int8)
        if self.sees is None and self.device.type == "cpu":
            return
        index, rows, kinds = together_to_device([slots, self.host[slots], sees], self.device)
        if self.sees is not None:
            self.sees[index] = kinds
        if self.device.type != "cpu":
            self.on_device[index] = rows

    def sees_of(self, slots: torch.Tensor) -> torch.Tensor | None:
        """`sees` of the tokens' `slots` [tokens], int8; None if it is not kept."""
        return None if self.sees is None else self.sees[slots]

    def move(self, moves: BeamMoves) -> None:
        """Writes the rows of sequences that go on in another slot, on the device in one
        copy. They attend to what the slot's own sequence attended to."""
        is_moved = moves.slots != moves.sources
        slots = moves.slots[is_moved]
        if not len(slots):
            return
        pages = moves.self_pages[is_moved]
        self.self_pages[slots, : pages.shape[1]] = pages
        if self.device.type != "cpu":
            index, rows = together_to_device([slots, self.host[slots]], self.device)
            self.on_device[index] = rows

    def grow(self, new_pages: NewPages) -> None:
        """Writes `new_pages` on the host. (Devices read them in a step's inputs.)"""
        self.self_pages[new_pages.slots, new_pages.columns] = new_pages.pages
