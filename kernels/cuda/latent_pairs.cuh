// How latent_wgmma.cu joins the splits of a sequence's tokens: in pairs, as in a tournament.
//
//   splits  0   1   2   3   4     Of two neighbours the one that arrives first leaves its sums and
//           +-1-+   +-3-+   |     ends. The other joins them with its own, in shared memory, and
//             +---2---+     |     goes on to the next pair; who has nobody beside it goes on at
//                 +----4----+     once. The last one has the sums of all.
//
// So what is read in a row are as many sums as there are rounds. A pair has a bit of `arrivals`, by
// the first split of its second half: set by who arrives first, cleared by the other, and so ready
// for the next launch.

constexpr int FOURS = WIDTH / 4, STAGED_ROW = WIDTH + 4;  // of sums in shared memory: other banks
constexpr int FETCHED = 6;                                // fours that a lane fetches at once

// Called by all threads: whether this program has come to have the sums of all splits. In shared
// memory are `sums` [ROWS, STAGED_ROW], the logarithms of their totals `lses` [ROWS], `shares`
// [2 ROWS] and `is_second`. Several splits leave theirs where the first of them would.
DEVICE bool join_pairs(
    const Part& part, float* sums, float* lses, float* shares, int* is_second, float* partial,
    float* partial_lse, int* arrivals, int64_t rows_of_split, int partial_row) {
    const int rows = min(part.rows, ROWS), fours = rows * FOURS;
    const auto left_at = [&](int split, int i) {
        return partial + (split * rows_of_split + row_of_all(part, i / FOURS)) * partial_row
            + i % FOURS * 4;
    };
    const auto lse_at = [&](int split) {
        return partial_lse + split * rows_of_split + row_of_all(part, threadIdx.x);
    };
    for (int half = 1; half < part.splits; half *= 2) {
        const int own = part.split & -half, other = own ^ half;
        if (other >= part.splits) continue;
        const int pair = 1 << max(own, other);
        if (threadIdx.x == 0) *is_second = atomicOr(arrivals, 0) & pair;
        __syncthreads();
        if (!*is_second) {
            for (int i = threadIdx.x; i < fours; i += THREADS)
                write_4(left_at(own, i), sums + i / FOURS * STAGED_ROW + i % FOURS * 4);
            if (threadIdx.x < rows) *lse_at(own) = lses[threadIdx.x];
            __threadfence();  // it is there before this program has arrived
            __syncthreads();
            if (threadIdx.x == 0) *is_second = atomicXor(arrivals, pair) & pair;
            __syncthreads();
            if (!*is_second) return false;
        } else if (threadIdx.x == 0) {
            atomicXor(arrivals, pair);
        }
        __threadfence();
        if (threadIdx.x < rows) {
            const float mine = lses[threadIdx.x], others = uncached(lse_at(other));
            const float top = fmaxf(mine, others);  // not finite: neither has a token
            const float share = top > -INFINITY ? power_of_two(mine - top) : 0.0f;
            const float others_share = top > -INFINITY ? power_of_two(others - top) : 0.0f;
            const float sum = share + others_share;
            shares[2 * threadIdx.x] = sum > 0.0f ? share / sum : 0.0f;
            shares[2 * threadIdx.x + 1] = sum > 0.0f ? others_share / sum : 0.0f;
            lses[threadIdx.x] = sum > 0.0f ? top + logarithm(sum) : -INFINITY;
        }
        __syncthreads();
        for (int begin = threadIdx.x; begin < fours; begin += THREADS * FETCHED) {
            float four[FETCHED][4];
            UNROLL for (int j = 0; j < FETCHED; j++)
                if (begin + j * THREADS < fours)
                    uncached_4(four[j], left_at(other, begin + j * THREADS));
            UNROLL for (int j = 0; j < FETCHED; j++) {
                const int i = begin + j * THREADS, row = i / FOURS;
                if (i < fours)
                    UNROLL for (int k = 0; k < 4; k++) {
                        float& sum = sums[row * STAGED_ROW + i % FOURS * 4 + k];
                        sum = shares[2 * row] * sum + shares[2 * row + 1] * four[j][k];
                    }
            }
        }
        __syncthreads();
    }
    return true;
}
