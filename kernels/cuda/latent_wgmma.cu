// Cross-attention on an encoder's hidden states, in pages, by products of warpgroups: what
// latent_attention.cu computes, for states of half precision on Hopper GPUs alone. See
// latent_wgmma.py, which compiles this behind ptx.cuh, hopper.cuh (or, to be tested on a CPU,
// tests/fakes/cuda_on_cpu.h and hopper_on_cpu.h), latent_splits.cuh and latent_pairs.cuh, with
//   WARPS   of a program: four for scores, the others for sums
//   WIDTH   features of a state
//   ROWS    of a program, each a head of a query: 8, 16 or 24
//   TOKENS  of a tile: 64
//   SLOTS   for chunks of tiles, in shared memory: at least a tile's
//   PAGE    tokens of a page: 8, 16, 32 or 64
//   LEAST_TOKENS  of a split
//   BF16    1: bfloat16, otherwise float16; FLOAT8 is 0
//
// Tiles come in chunks of 64 features: [TOKENS, 64], rows of 128 bytes, swizzled. A chunk is the
// left side of both products, from where it lies, once as it is and once turned:
//
//   scores [TOKENS, ROWS] += chunk [TOKENS, 64] . queries [64, ROWS]        of all chunks
//   sums [64, ROWS]       += chunk^T [64, TOKENS] . weights [TOKENS, ROWS]  of each chunk
//
// The first warpgroup computes scores, chunk by chunk as they come, and the softmax. The others
// share the chunks: each adds to the sums of its own, in registers, and fetches what takes the
// place of a chunk that it is done with. So scores of the next tile begin while sums are added;
// with slots for one tile alone, there is nothing to fetch from its last chunk to its first sums.

constexpr int GROUPS = WARPS / 4 - 1;         // of warps, for sums
constexpr int CHUNKS = WIDTH / 64, OWN = CHUNKS / GROUPS;
constexpr int BLOCKS = ROWS / 8, SUMS = ROWS / 2;  // a lane's, of a product
constexpr int PAGES = TOKENS / PAGE;          // of a tile
constexpr int CHUNK_BYTES = TOKENS * 128, SIDE_BYTES = ROWS * 128;
constexpr int AHEAD = SLOTS / CHUNKS;         // whole tiles that are fetched ahead
// In shared memory. Sums, to be joined and written in order, take the place of chunks at the end.
constexpr int QUERIES_AT = SLOTS * CHUNK_BYTES;
constexpr int WEIGHTS_AT = QUERIES_AT + CHUNKS * SIDE_BYTES;
constexpr int TOPS_AT = WEIGHTS_AT + SIDE_BYTES;
constexpr int FACTORS_AT = TOPS_AT + 4 * ROWS * 4;
constexpr int INVERSES_AT = FACTORS_AT + ROWS * 4;
constexpr int LSES_AT = INVERSES_AT + ROWS * 4;
constexpr int BARRIERS_AT = LSES_AT + ROWS * 4;
constexpr int SECOND_AT = BARRIERS_AT + (SLOTS + 2) * 8;
static_assert(TOKENS == 64 && TOKENS % PAGE == 0 && PAGE % 8 == 0 && !FLOAT8);
static_assert(WIDTH % (64 * GROUPS) == 0 && SLOTS % GROUPS == 0 && SLOTS >= CHUNKS);
static_assert(ROWS * STAGED_ROW * 4 <= SLOTS * CHUNK_BYTES);

// A side of a product, as wgmma is told of it (PTX ISA, "Matrix Descriptor Format"): rows of 128
// bytes in the swizzle of 128 bytes, eight of them 1,024 bytes, which begin at a multiple of that.
// The next sixteen of its rows are 2 more, sixteen rows 128 more. (What would lie between 64 and 64
// features of a turned side, which has no more, is not used: 1.)
constexpr uint32_t ROWS_OF_SIDES = 1u << 30 | 1024 >> 4;
DEVICE uint32_t side(const void* first) { return 1 << 16 | (in_shared(first) & 0x3ffff) >> 4; }

struct Place {  // of a chunk: chunks take slots in turn
    int slot, turn = 0;
};
DEVICE void go_on(Place& place, int chunks) {
    place.slot += chunks;
    if (place.slot >= SLOTS) place.slot -= SLOTS, place.turn ^= 1;
}

KERNEL void latent_attention(
    const uint16_t* q, const void* states, uint16_t* out, float* partial, float* partial_lse,
    int* arrivals, const int* cu_seqlens_q, const int* kv_lens, const int* page_table, double scale,
    int q_token, int q_head, int table_row, int num_tokens, int heads, int q_blocks,
    int most_splits, int partial_row) {
    SWIZZLED_MEMORY(memory);
    const int warpgroup = uniform(threadIdx.x / 128), thread = threadIdx.x % 128;
    const int warp = thread / 32, lane = thread % 32;
    const int group = lane / 4, pair = lane % 4;  // a lane's places in a product
    const Part part = part_of_program(cu_seqlens_q, kv_lens, heads, q_blocks, most_splits);
    if (is_empty(part)) return;
    const int tiles = part.tiles;
    const int64_t rows_of_split = (int64_t)num_tokens * heads;
    char* weights = memory + WEIGHTS_AT;
    float* tops = (float*)(memory + TOPS_AT);
    float* factors = (float*)(memory + FACTORS_AT);
    float* inverses = (float*)(memory + INVERSES_AT);
    float* lses = (float*)(memory + LSES_AT);
    char* weights_are_there = memory + BARRIERS_AT + SLOTS * 8;
    char* weights_are_used = weights_are_there + 8;
    const auto chunk_in = [&](int slot) { return memory + slot * CHUNK_BYTES; };
    const auto barrier_of = [&](int slot) { return memory + BARRIERS_AT + slot * 8; };

    if (threadIdx.x < SLOTS) barrier_init(memory + BARRIERS_AT + 8 * threadIdx.x, 1);
    if (threadIdx.x == 0) {
        barrier_init(weights_are_there, 128);
        barrier_init(weights_are_used, 4 * GROUPS);
    }
    barriers_are_ready();
    __syncthreads();

    const int first = warpgroup - 1;  // of the chunks that a group adds: every one after GROUPS
    const int* table = page_table + (int64_t)part.sequence * table_row + part.begin / PAGE;
    const auto pages_of = [&](int tile) {
        return min(PAGES, divided(part.end - part.begin - tile * TOKENS, PAGE));
    };
    const auto page_of = [&](int tile) {  // that a lane fetches
        return lane < pages_of(tile) ? table[tile * PAGES + lane] : 0;
    };
    const auto fetch = [&](int slot, int c, int pages, int page) {
        // By the first warp: a lane fetches a page.
        if (pages <= 0) return;
        if (lane == 0) expect_bytes(barrier_of(slot), pages * PAGE * 128);
        __syncwarp();
        if (lane < pages)
            copy_box(
                chunk_in(slot) + lane * PAGE * 128, states, c * 64, page, barrier_of(slot));
    };
    if (first >= 0 && warp == 0) {
        map_is_read(states);
        for (int chunk = first; chunk < SLOTS; chunk += GROUPS) {
            const int tile = chunk / CHUNKS;
            fetch(chunk, chunk % CHUNKS, pages_of(tile), page_of(tile));
        }
    }

    // Queries as right sides, sixteen bytes at a time.
    for (int i = threadIdx.x; i < ROWS * CHUNKS * 8; i += THREADS) {
        const int row = i / (CHUNKS * 8), eight = i % (CHUNKS * 8);
        const int place = part.block * ROWS + row;
        char* target = memory + QUERIES_AT + eight / 8 * SIDE_BYTES + row * 128
            + (eight % 8 ^ row % 8) * 16;
        if (row < part.rows)
            copy_16(target, q + (int64_t)(part.first_token + place / heads) * q_token
                + (int64_t)(place % heads) * q_head + eight * 8);
        else
            zero_16(target);
    }
    wait_for_copies();
    written_for_products();
    __syncthreads();

    if (warpgroup == 0) {
        const float factor = (float)scale * LOG2_E;
        float scores[SUMS];
        float highest[BLOCKS][2], total[BLOCKS][2];  // of the columns of a lane's scores
        UNROLL for (int b = 0; b < BLOCKS; b++)
            UNROLL for (int odd = 0; odd < 2; odd++) highest[b][odd] = -INFINITY, total[b][odd] = 0;
        Place place = {0};
        for (int tile = 0; tile < tiles; tile++) {
            uint32_t queries = side(memory + QUERIES_AT);
            for (int c = 0; c < CHUNKS; c++, queries += SIDE_BYTES >> 4, go_on(place, 1)) {
                const uint32_t chunk = side(chunk_in(place.slot));
                wait_for(barrier_of(place.slot), place.turn);
                before_products();
                UNROLL for (int k = 0; k < 4; k++)
                    multiply_tiles<0, ROWS_OF_SIDES>(
                        scores, chunk + 2 * k, queries + 2 * k, c + k > 0);
                commit_products();
            }
            wait_for_products<0>();

            const int left = part.end - part.begin - tile * TOKENS;  // tokens
            UNROLL for (int b = 0; b < BLOCKS; b++)
                UNROLL for (int odd = 0; odd < 2; odd++) {
                    UNROLL for (int half = 0; half < 2; half++) {
                        float& score = scores[4 * b + 2 * half + odd];
                        const bool is_token = 16 * warp + 8 * half + group < left;
                        score = is_token ? score * factor : -INFINITY;
                    }
                    float top = fmaxf(scores[4 * b + odd], scores[4 * b + 2 + odd]);
                    UNROLL for (int other = 4; other < 32; other *= 2)
                        top = fmaxf(top, __shfl_xor_sync(~0u, top, other));
                    if (group == 0) tops[warp * ROWS + 8 * b + 2 * pair + odd] = top;
                }
            wait_for_threads(1, 128);
            float most[BLOCKS][2];  // all are read before anything is written
            UNROLL for (int b = 0; b < BLOCKS; b++)
                UNROLL for (int odd = 0; odd < 2; odd++) {
                    float& top = most[b][odd];
                    top = highest[b][odd];
                    UNROLL for (int w = 0; w < 4; w++)
                        top = fmaxf(top, tops[w * ROWS + 8 * b + 2 * pair + odd]);
                    // What is a little larger than before needs no new scale of all sums: weights
                    // may be a few powers of two above 1.
                    if (top - highest[b][odd] <= MOST_POWER) top = highest[b][odd];
                }
            if (tile > 0) wait_for(weights_are_used, (tile - 1) % 2);
            UNROLL for (int b = 0; b < BLOCKS; b++)
                UNROLL for (int odd = 0; odd < 2; odd++) {
                    const int row = 8 * b + 2 * pair + odd;
                    const float top = most[b][odd];
                    const float shrink = power_of_two(highest[b][odd] - top);
                    highest[b][odd] = top;
                    total[b][odd] *= shrink;
                    if (thread < 4) factors[row] = shrink;
                    UNROLL for (int half = 0; half < 2; half++) {
                        const float weight = power_of_two(scores[4 * b + 2 * half + odd] - top);
                        total[b][odd] += weight;  // of this lane's tokens
                        const int eight = 2 * warp + half;  // of tokens
                        *(uint16_t*)(weights + row * 128 + (eight ^ row % 8) * 16 + group * 2) =
                            rounded(weight);
                    }
                }
            written_for_products();
            arrive(weights_are_there);
        }
        wait_for_threads(1, 128);  // all have read the tops
        UNROLL for (int b = 0; b < BLOCKS; b++)
            UNROLL for (int odd = 0; odd < 2; odd++) {
                UNROLL for (int other = 4; other < 32; other *= 2)
                    total[b][odd] += __shfl_xor_sync(~0u, total[b][odd], other);
                if (group == 0) tops[warp * ROWS + 8 * b + 2 * pair + odd] = total[b][odd];
            }
        wait_for_threads(1, 128);
        if (thread < 4)
            UNROLL for (int b = 0; b < BLOCKS; b++)
                UNROLL for (int odd = 0; odd < 2; odd++) {
                    const int row = 8 * b + 2 * pair + odd;
                    float sum = 0.0f;
                    UNROLL for (int w = 0; w < 4; w++) sum += tops[w * ROWS + row];
                    const bool has_tokens = sum > 0.0f;  // a split may be empty
                    inverses[row] = has_tokens ? 1.0f / sum : 0.0f;
                    lses[row] = has_tokens ? highest[b][odd] + logarithm(sum) : -INFINITY;
                }
        wait_for_threads(2, THREADS);
    } else {
        float sums[OWN][SUMS] = {};
        Place place = {first};
        for (int tile = 0; tile < tiles; tile++) {
            // Of the tile that takes the place of this one, and of the next where its slots begin
            // within a tile.
            const int pages = pages_of(tile + AHEAD), next_pages = pages_of(tile + AHEAD + 1);
            const int page = warp == 0 ? page_of(tile + AHEAD) : 0;
            const int next_page = warp == 0 && SLOTS % CHUNKS ? page_of(tile + AHEAD + 1) : 0;
            wait_for(weights_are_there, tile % 2);
            float factor[BLOCKS][2];
            int is_scaled = 0;
            UNROLL for (int b = 0; b < BLOCKS; b++)
                UNROLL for (int odd = 0; odd < 2; odd++) {
                    factor[b][odd] = factors[8 * b + 2 * pair + odd];
                    is_scaled |= factor[b][odd] != 1.0f;
                }
            if (__any_sync(~0u, is_scaled))
                UNROLL for (int own = 0; own < OWN; own++)
                    UNROLL for (int i = 0; i < SUMS; i++) sums[own][i] *= factor[i / 4][i % 2];
            const int left = part.end - part.begin - tile * TOKENS;
            if (left < TOKENS) {
                // Behind the last token lies what no one may see: its weight is 0, but a product
                // with what is not finite would not be.
                Place zeroed = place;
                for (int own = 0; own < OWN; own++, go_on(zeroed, GROUPS)) {
                    wait_for(barrier_of(zeroed.slot), zeroed.turn);
                    for (int i = left * 8 + thread; i < TOKENS * 8; i += 128)
                        zero_16(chunk_in(zeroed.slot) + i * 16);
                }
                written_for_products();
                wait_for_threads(3 + first, 128);
            }
            int slot_before;
            UNROLL for (int own = 0; own <= OWN; own++) {
                const int slot = place.slot;
                if (own < OWN) {
                    const uint32_t chunk = side(chunk_in(slot)), weights_side = side(weights);
                    wait_for(barrier_of(slot), place.turn);
                    before_products();
                    UNROLL for (int k = 0; k < 4; k++)
                        multiply_tiles<1, ROWS_OF_SIDES>(
                            sums[own], chunk + 128 * k, weights_side + 2 * k, true);
                    commit_products();
                    go_on(place, GROUPS);
                }
                if (own > 0) {  // the chunk before has been read, by all
                    own < OWN ? wait_for_products<1>() : wait_for_products<0>();
                    wait_for_threads(3 + first, 128);
                    const int later = (own - 1) * GROUPS + SLOTS;  // what takes its place
                    const bool is_next = later >= (AHEAD + 1) * CHUNKS;
                    if (warp == 0)
                        fetch(slot_before, later % CHUNKS + first, is_next ? next_pages : pages,
                            is_next ? next_page : page);
                }
                slot_before = slot;
            }
            if (lane == 0) arrive(weights_are_used);
        }
        wait_for_threads(2, THREADS);
        // Sums of a lane lie far apart: they are put in order, in place of chunks.
        UNROLL for (int own = 0; own < OWN; own++)
            UNROLL for (int i = 0; i < SUMS; i++) {
                const int row = i / 4 * 8 + 2 * pair + i % 2;
                const int feature = 64 * (own * GROUPS + first) + 16 * warp + i / 2 % 2 * 8 + group;
                ((float*)memory)[row * STAGED_ROW + feature] = sums[own][i] * inverses[row];
            }
    }

    __syncthreads();
    const bool has_all = join_pairs(
        part, (float*)memory, lses, tops, (int*)(memory + SECOND_AT), partial, partial_lse,
        arrivals + blockIdx.x, rows_of_split, partial_row);
    if (!has_all) return;
    for (int i = threadIdx.x; i < min(part.rows, ROWS) * FOURS; i += THREADS) {
        const float* four = (const float*)memory + i / FOURS * STAGED_ROW + i % FOURS * 4;
        write_2(out + row_of_all(part, i / FOURS) * WIDTH + i % FOURS * 4,
            as_output(four[0]) | (uint32_t)as_output(four[1]) << 16,
            as_output(four[2]) | (uint32_t)as_output(four[3]) << 16);
    }
}
