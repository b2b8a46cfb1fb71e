// Cross-attention on an encoder's hidden states, in pages: see latent_mma.py, which compiles this
// behind ptx.cuh (or, to be tested on a CPU, tests/fakes/cuda_on_cpu.h) and latent_splits.cuh with
//   WARPS   of a program
//   WIDTH   features of a state, a multiple of 16 WARPS
//   ROWS    of a program, each a head of a query: a multiple of 8
//   TOKENS  of a tile: 16 or 32
//   STAGES  tiles in shared memory
//   PAGE    tokens of a page
//   LEAST_TOKENS  of a split
//   FLOAT8  1: states are float8 (e4m3), and products are computed in float16
//   BF16    1: queries and outputs are bfloat16, otherwise float16
//
// The warps share the features; the products' left sides are states, their right sides rows:
//
//   scores [TOKENS, ROWS] = sum over warps of  tile [TOKENS, own] . queries [own, ROWS]
//   sums [own, ROWS]     += tile^T [own, TOKENS] . weights [TOKENS, ROWS]      (of each warp)
//
// so that a tile is read twice from shared memory, once for each product, and few rows cost little:
// they are the side of which the tensor cores take eight. Queries and sums stay in registers.

constexpr int OWN = WIDTH / WARPS;      // features of a warp
constexpr int STEPS = OWN / 16;         // of sixteen features
constexpr int BLOCKS = ROWS / 8;        // of eight rows
constexpr int BYTES = FLOAT8 ? 1 : 2;
// In shared memory. Sixteen bytes more than a token has: eight tokens then lie in different banks.
constexpr int TOKEN_BYTES = WIDTH * BYTES + 16;
constexpr int TILE_BYTES = TOKENS * TOKEN_BYTES;
constexpr int SCORE_ROW = TOKENS + 4, WEIGHT_ROW = TOKENS + 8;  // elements, likewise
constexpr int SCORES_AT = STAGES * TILE_BYTES;
constexpr int WEIGHTS_AT = SCORES_AT + WARPS * ROWS * SCORE_ROW * 4;
constexpr int FACTORS_AT = WEIGHTS_AT + ROWS * WEIGHT_ROW * 2;
constexpr int BARRIERS_AT = FACTORS_AT + ROWS * 4 + 8 - (FACTORS_AT + ROWS * 4) % 8;
constexpr int LAST_AT = BARRIERS_AT + STAGES * 8;
// Rows whose softmax a warp computes at once: a lane has a token.
constexpr int ROWS_AT_ONCE = 32 / TOKENS, PASSES = (ROWS - 1) / (WARPS * ROWS_AT_ONCE) + 1;
constexpr int JOINED = 5;              // values of splits that a lane fetches at once
static_assert(WIDTH % (16 * WARPS) == 0 && ROWS % 8 == 0);

KERNEL void latent_attention(
    const uint16_t* q, const uint8_t* states, uint16_t* out, float* partial, float* partial_lse,
    int* arrivals, const int* cu_seqlens_q, const int* kv_lens, const int* page_table, double scale,
    int q_token, int q_head, int state_page, int state_token, int table_row, int num_tokens,
    int heads, int q_blocks, int most_splits, int partial_row) {
    SHARED_MEMORY(memory);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int group = lane / 4, pair = lane % 4;  // a lane's places in the operands of a product
    const Part part = part_of_program(cu_seqlens_q, kv_lens, heads, q_blocks, most_splits);
    if (is_empty(part)) return;
    const int split = part.split, splits = part.splits, rows = part.rows;
    const int begin = part.begin, end = part.end, tiles = part.tiles;
    const int first_token = part.first_token;
    const int* table = page_table + (int64_t)part.sequence * table_row;
    const int64_t rows_of_split = (int64_t)num_tokens * heads;
    float* scores = (float*)(memory + SCORES_AT);
    uint16_t* weights = (uint16_t*)(memory + WEIGHTS_AT);
    float* factors = (float*)(memory + FACTORS_AT);

    if (threadIdx.x < STAGES) barrier_init(memory + BARRIERS_AT + 8 * threadIdx.x);
    barriers_are_ready();
    __syncthreads();

    auto fetch = [&](int tile) {  // by the first warp: a lane fetches a token
        char* stage = memory + tile % STAGES * TILE_BYTES;
        char* barrier = memory + BARRIERS_AT + tile % STAGES * 8;
        if (lane == 0) expect_bytes(barrier, TOKENS * WIDTH * BYTES);
        __syncwarp();
        if (lane < TOKENS) {
            // Behind the last token that one again: finite, and its weight will be 0.
            const int token = min(begin + tile * TOKENS + lane, end - 1);
            const int64_t place = (int64_t)table[token / PAGE] * state_page
                + (int64_t)(token % PAGE) * state_token;
            copy_bytes(stage + lane * TOKEN_BYTES, states + place * BYTES, WIDTH * BYTES, barrier);
        }
    };
    if (warp == 0)
        for (int tile = 0; tile < min(tiles, STAGES); tile++) fetch(tile);

    // Queries as right sides: a lane holds features of the row `group` of each eight. Of float8 it
    // holds the four that lie together, as it will get them of the states.
    uint32_t query[STEPS][BLOCKS][2];
    UNROLL for (int b = 0; b < BLOCKS; b++) {
        const int row = 8 * b + group, place = part.block * ROWS + row;
        const uint16_t* own = q + (int64_t)(first_token + place / heads) * q_token
            + (int64_t)(place % heads) * q_head + warp * OWN;
        UNROLL for (int step = 0; step < STEPS; step++)
            UNROLL for (int half = 0; half < 2; half++) {
                const int at = 16 * step + (FLOAT8 ? 4 * pair + 2 * half : 2 * pair + 8 * half);
                const uint32_t two = row < rows ? *(const uint32_t*)(own + at) : 0u;
                query[step][b][half] = FLOAT8 && BF16 ? float16_of_bfloat16(two) : two;
            }
    }

    float sums[STEPS][BLOCKS][4] = {};
    float highest[PASSES], total[PASSES];  // of the rows whose softmax this warp computes
    UNROLL for (int pass = 0; pass < PASSES; pass++) highest[pass] = -INFINITY, total[pass] = 0.0f;
    const int softmax_token = lane % TOKENS, softmax_row = warp * ROWS_AT_ONCE + lane / TOKENS;

    for (int tile = 0; tile < tiles; tile++) {
        const char* own = memory + tile % STAGES * TILE_BYTES + warp * OWN * BYTES;
        wait_for(memory + BARRIERS_AT + tile % STAGES * 8, tile / STAGES % 2);

        float partial_scores[TOKENS / 16][BLOCKS][4] = {};
        UNROLL for (int step = 0; step < STEPS; step++)
            UNROLL for (int m = 0; m < TOKENS / 16; m++) {
                uint32_t a[4];
                const char* at = own + (16 * m + lane % 16) * TOKEN_BYTES + 16 * step * BYTES;
                if (FLOAT8) {  // sixteen tokens of sixteen features: two matrices
                    uint32_t four[2];
                    matrices_2(four, at);
                    float16_of_float8(four[0], a[0], a[2]);
                    float16_of_float8(four[1], a[1], a[3]);
                } else {
                    matrices_4(a, at + lane / 16 * 16);
                }
                UNROLL for (int b = 0; b < BLOCKS; b++)
                    multiply(partial_scores[m][b], a, query[step][b]);
            }
        UNROLL for (int m = 0; m < TOKENS / 16; m++)
            UNROLL for (int b = 0; b < BLOCKS; b++)
                UNROLL for (int i = 0; i < 4; i++)
                    scores[(warp * ROWS + 8 * b + 2 * pair + i % 2) * SCORE_ROW + 16 * m + group
                           + i / 2 * 8] = partial_scores[m][b][i];
        __syncthreads();

        int changed = 0;
        const bool is_token = begin + tile * TOKENS + softmax_token < end;
        UNROLL for (int pass = 0; pass < PASSES; pass++) {
            const int row = pass * WARPS * ROWS_AT_ONCE + softmax_row;
            if (row - lane / TOKENS >= ROWS) break;
            float score = 0.0f;
            UNROLL for (int w = 0; w < WARPS; w++)
                score += scores[(w * ROWS + row) * SCORE_ROW + softmax_token];
            score = is_token ? score * ((float)scale * LOG2_E) : -INFINITY;
            float top = score;
            UNROLL for (int other = TOKENS / 2; other > 0; other /= 2)
                top = fmaxf(top, __shfl_xor_sync(~0u, top, other));
            top = fmaxf(top, highest[pass]);  // finite: a tile has a token
            // What is a little larger than before needs no new scale of all sums: weights may be
            // a few powers of two above 1.
            if (top - highest[pass] <= MOST_POWER) top = highest[pass];
            const float weight = power_of_two(score - top);
            const float shrink = power_of_two(highest[pass] - top);
            changed |= top != highest[pass];
            total[pass] = total[pass] * shrink + weight;  // of this lane's tokens
            highest[pass] = top;
            weights[row * WEIGHT_ROW + softmax_token] = rounded(weight);
            if (softmax_token == 0) factors[row] = shrink;
        }
        if (__syncthreads_or(changed))
            UNROLL for (int b = 0; b < BLOCKS; b++) {
                const float even = factors[8 * b + 2 * pair], odd = factors[8 * b + 2 * pair + 1];
                UNROLL for (int step = 0; step < STEPS; step++)
                    UNROLL for (int i = 0; i < 4; i++) sums[step][b][i] *= i % 2 ? odd : even;
            }

        UNROLL for (int k = 0; k < TOKENS / 16; k++) {
            uint32_t right[BLOCKS][2];
            UNROLL for (int b = 0; b < BLOCKS; b++)
                UNROLL for (int half = 0; half < 2; half++)
                    right[b][half] = *(const uint32_t*)(
                        weights + (8 * b + group) * WEIGHT_ROW + 16 * k + 2 * pair + 8 * half);
            UNROLL for (int step = 0; step < STEPS; step++) {
                uint32_t a[4];
                if (FLOAT8) {  // pairs of features change places with tokens
                    const char* at = own + (16 * k + lane % 16) * TOKEN_BYTES + 16 * step;
                    uint32_t four[2], low[2], high[2];
                    turned_matrices_2(four, at);
                    UNROLL for (int half = 0; half < 2; half++)
                        float16_of_turned_float8(four[half], low[half], high[half]);
                    a[0] = low[0], a[1] = high[0], a[2] = low[1], a[3] = high[1];
                } else {
                    const int token = 16 * k + lane / 16 * 8 + lane % 8;
                    const int feature = 16 * step + lane / 8 % 2 * 8;
                    turned_matrices_4(a, own + token * TOKEN_BYTES + feature * 2);
                }
                UNROLL for (int b = 0; b < BLOCKS; b++) multiply(sums[step][b], a, right[b]);
            }
        }
        __syncthreads();  // all have read the tile
        if (warp == 0 && tile + STAGES < tiles) fetch(tile + STAGES);
    }

    UNROLL for (int pass = 0; pass < PASSES; pass++) {
        const int row = pass * WARPS * ROWS_AT_ONCE + softmax_row;
        if (row - lane / TOKENS >= ROWS) break;
        UNROLL for (int other = TOKENS / 2; other > 0; other /= 2)
            total[pass] += __shfl_xor_sync(~0u, total[pass], other);
        const bool has_tokens = total[pass] > 0.0f;  // a split may be empty
        if (softmax_token == 0) {
            factors[row] = has_tokens ? 1.0f / total[pass] : 0.0f;
            if (splits > 1 && row < rows)
                partial_lse[split * rows_of_split + row_of_all(part, row)] =
                    has_tokens ? highest[pass] + logarithm(total[pass]) : -INFINITY;
        }
    }
    __syncthreads();
    UNROLL for (int b = 0; b < BLOCKS; b++)
        UNROLL for (int odd = 0; odd < 2; odd++) {
            const int row = 8 * b + 2 * pair + odd;
            if (row >= rows) continue;
            const int64_t of_all = row_of_all(part, row);
            UNROLL for (int step = 0; step < STEPS; step++)
                UNROLL for (int half = 0; half < 2; half++) {
                    const int feature = warp * OWN + 16 * step
                        + (FLOAT8 ? 2 * group + half : group + 8 * half);
                    const float value = sums[step][b][2 * half + odd] * factors[row];
                    if (splits == 1)
                        out[of_all * WIDTH + feature] = as_output(value);
                    else
                        partial[(split * rows_of_split + of_all) * partial_row + feature] = value;
                }
        }
    if (splits == 1) return;

    int* last = (int*)(memory + LAST_AT);
    __threadfence();  // what this program has left is there before it has arrived
    __syncthreads();
    if (threadIdx.x == 0) {
        *last = atomicAdd(arrivals + blockIdx.x, 1) == splits - 1;
        if (*last) arrivals[blockIdx.x] = 0;  // ready for the next launch
    }
    __syncthreads();
    if (!*last) return;
    __threadfence();
    // The splits' shares of each row, then their sums, of four features at a time: JOINED of them
    // are fetched before any is used.
    const int joined_rows = min(rows, ROWS);
    for (int i = threadIdx.x; i < joined_rows * splits; i += THREADS)
        scores[i] =
            uncached(partial_lse + i % splits * rows_of_split + row_of_all(part, i / splits));
    __syncthreads();
    if (threadIdx.x < joined_rows) {
        float* shares = scores + threadIdx.x * splits;
        float top = -INFINITY, sum = 0.0f;
        for (int i = 0; i < splits; i++) top = fmaxf(top, shares[i]);
        for (int i = 0; i < splits; i++) sum += shares[i] = power_of_two(shares[i] - top);
        for (int i = 0; i < splits; i++) shares[i] /= sum;
    }
    __syncthreads();
    constexpr int FOURS = WIDTH / 4;
    for (int begin = threadIdx.x; begin < joined_rows * FOURS; begin += THREADS * JOINED) {
        float joined[JOINED][4] = {};
        for (int i = 0; i < splits; i++) {
            float four[JOINED][4];
            UNROLL for (int j = 0; j < JOINED; j++) {
                const int at = begin + j * THREADS;
                if (at < joined_rows * FOURS)
                    uncached_4(four[j], partial + at % FOURS * 4
                        + (i * rows_of_split + row_of_all(part, at / FOURS)) * partial_row);
            }
            UNROLL for (int j = 0; j < JOINED; j++) {
                const int at = begin + j * THREADS;
                if (at < joined_rows * FOURS)
                    UNROLL for (int k = 0; k < 4; k++)
                        joined[j][k] += scores[at / FOURS * splits + i] * four[j][k];
            }
        }
        UNROLL for (int j = 0; j < JOINED; j++) {
            const int at = begin + j * THREADS;
            if (at < joined_rows * FOURS)
                UNROLL for (int k = 0; k < 4; k++)
                    out[row_of_all(part, at / FOURS) * WIDTH + at % FOURS * 4 + k] =
                        as_output(joined[j][k]);
        }
    }
}
