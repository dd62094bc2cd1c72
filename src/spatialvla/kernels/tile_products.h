// Products of many rows with the panels of weights that the vector units read, too, by the matrix units of `tiles.h`.
//
// A tile of weights is 16 outputs of a panel: its rows lie PANEL outputs apart. Rows of x are first put in the order of
// tiles, 16 of them with 64 bytes each, zero where x ends. Up to 16 rows meet a whole panel at once, so that it is read in
// one go; more rows meet half a panel two tiles at a time, which takes as many loads as products.

#pragma once

#include "eight_bits.h"
#include "tiles.h"

namespace {

constexpr long STREAMED = 4;         // rows up to which the vector units wait for memory, not the other way round
constexpr long TILE_CHUNK = 512;     // as CHUNK, in whole tiles
constexpr long TILE_STRETCH = 512;   // of K in bfloat16: of half a panel, what stays in a first-level cache
constexpr long TILE_HALVES = 32;     // numbers of x in a row of a tile
constexpr long BLOCK_ROWS = 96;      // rows whose sums stay in a first-level cache while groups are added up
constexpr long ROW_OF_PANEL = 256;   // bytes
constexpr long TILE = TILE_ROWS * TILE_BYTES;

// Whether this product goes to the matrix units.
inline bool by_tiles(long rows) { return rows > STREAMED && has_tiles(); }

inline long up(long number, long multiple) { return (number + multiple - 1) / multiple * multiple; }

// Bytes of a panel that will be read soon.
inline void fetch(const void* from, long bytes) {
  for (long i = 0; i < bytes; i += 64) _mm_prefetch((const char*)from + i, _MM_HINT_T0);
}

// 16 rows of x times a panel; `steps` tiles of K. sums: (16, PANEL).
inline void one_by_four(const Half* x, const Half* w, long steps, float* sums) {
  tile_load(0, sums, ROW_OF_PANEL);
  tile_load(1, sums + 16, ROW_OF_PANEL);
  tile_load(2, sums + 32, ROW_OF_PANEL);
  tile_load(3, sums + 48, ROW_OF_PANEL);
  for (long k = 0; k < steps; k++, x += TILE / 2, w += TILE_HALVES * PANEL) {
    fetch(w + 2 * TILE_HALVES * PANEL, TILE_HALVES * PANEL * sizeof(Half));
    tile_load(4, x, TILE_BYTES);
    tile_load(5, w, ROW_OF_PANEL);
    tile_dot_bf16(0, 4, 5);
    tile_load(6, w + 32, ROW_OF_PANEL);
    tile_dot_bf16(1, 4, 6);
    tile_load(7, w + 64, ROW_OF_PANEL);
    tile_dot_bf16(2, 4, 7);
    tile_load(5, w + 96, ROW_OF_PANEL);
    tile_dot_bf16(3, 4, 5);
  }
  tile_store(0, sums, ROW_OF_PANEL);
  tile_store(1, sums + 16, ROW_OF_PANEL);
  tile_store(2, sums + 32, ROW_OF_PANEL);
  tile_store(3, sums + 48, ROW_OF_PANEL);
}

// 32 rows of x, the second 16 of them `apart` numbers behind the first, times half a panel. sums: (32, PANEL).
inline void two_by_two(const Half* x, long apart, const Half* w, long steps, float* sums) {
  float* below = sums + TILE_ROWS * PANEL;
  tile_load(0, sums, ROW_OF_PANEL);
  tile_load(1, sums + 16, ROW_OF_PANEL);
  tile_load(2, below, ROW_OF_PANEL);
  tile_load(3, below + 16, ROW_OF_PANEL);
  for (long k = 0; k < steps; k++, x += TILE / 2, w += TILE_HALVES * PANEL) {
    tile_load(4, x, TILE_BYTES);
    tile_load(6, w, ROW_OF_PANEL);
    tile_dot_bf16(0, 4, 6);
    tile_load(7, w + 32, ROW_OF_PANEL);
    tile_dot_bf16(1, 4, 7);
    tile_load(5, x + apart, TILE_BYTES);
    tile_dot_bf16(2, 5, 6);
    tile_dot_bf16(3, 5, 7);
  }
  tile_store(0, sums, ROW_OF_PANEL);
  tile_store(1, sums + 16, ROW_OF_PANEL);
  tile_store(2, below, ROW_OF_PANEL);
  tile_store(3, below + 16, ROW_OF_PANEL);
}

// Rows (rows, K) in the order of tiles: (tiles of rows, tiles of K, 16, 32).
inline void put_in_tiles(const Half* x, long rows, long K, long tile_of_rows, Half* tiles_of_x) {
  const long steps = up(K, TILE_HALVES) / TILE_HALVES;
  Half* to = tiles_of_x + tile_of_rows * steps * TILE / 2;
  for (long k = 0; k < K; k += TILE_HALVES)
    for (long m = tile_of_rows * TILE_ROWS; m < (tile_of_rows + 1) * TILE_ROWS; m++, to += TILE_HALVES) {
      const long count = m < rows ? std::min(TILE_HALVES, K - k) : 0;
      const __mmask32 mask = count == TILE_HALVES ? ~0u : (1u << count) - 1;
      _mm512_storeu_si512(to, _mm512_maskz_loadu_epi16(mask, x + m * K + k));
    }
}

// As `bf16_product`.
inline void tiled_bf16_product(
    const Half* x, const Half* w, const float* bias, Half* y, long M, long N, long K, int threads) {
  const long panels = (N + PANEL - 1) / PANEL, width = up(K, TILE_HALVES), row_tiles = up(M, TILE_ROWS) / TILE_ROWS;
  const long apart = width * TILE_ROWS;
  static thread_local Scratch<Half> kept;
  Half* const tiles_of_x = kept.get(row_tiles * apart);
  const TileConfig config;
#pragma omp parallel num_threads(threads)
  {
    static thread_local Scratch<float> memory;
    float* sums = memory.get(TILE_CHUNK * PANEL);
    tile_config(&config);
#pragma omp for
    for (long r = 0; r < row_tiles; r++) put_in_tiles(x, M, K, r, tiles_of_x);
#pragma omp for collapse(2) schedule(dynamic)
    for (long chunk = 0; chunk < M; chunk += TILE_CHUNK)
      for (long p = 0; p < panels; p++) {
        const long rows = std::min(TILE_CHUNK, M - chunk), tiles_here = up(rows, TILE_ROWS) / TILE_ROWS;
        std::fill(sums, sums + tiles_here * TILE_ROWS * PANEL, 0.0f);
        const long stretch = tiles_here == 1 ? width : TILE_STRETCH;
        for (long k = 0; k < width; k += stretch) {
          const long steps = std::min(stretch, width - k) / TILE_HALVES;
          const Half *from = tiles_of_x + chunk * width + k * TILE_ROWS, *part = w + (p * width + k) * PANEL;
          for (long half = 0; half < PANEL; half += PANEL / 2)
            for (long r = 0; r + 1 < tiles_here; r += 2)
              two_by_two(from + r * apart, apart, part + 2 * half, steps, sums + r * TILE_ROWS * PANEL + half);
          if (tiles_here % 2) {
            const long r = tiles_here - 1;
            one_by_four(from + r * apart, part, steps, sums + r * TILE_ROWS * PANEL);
          }
        }
        finish(sums, bias ? bias + p * PANEL : nullptr, y + chunk * N + p * PANEL, rows, N, N - p * PANEL);
      }
    tile_release();
  }
}

// Products of a group in whole numbers, 16 rows by 16 outputs -> added to the sums of these outputs with their scales.
inline void add_group(const int* whole, const Quantized& x, long row, long rows, long g, __m512 scale, float* sums) {
  for (long r = 0; r < rows; r++) {
    const long at = (row + r) * x.groups + g;
    const __m512i products = _mm512_add_epi32(_mm512_load_si512(whole + r * 16), _mm512_set1_epi32(x.begin[at]));
    const __m512 factor = _mm512_mul_ps(_mm512_set1_ps(x.scales[at]), scale);
    float* to = sums + r / x.planes * PANEL;
    _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), factor, _mm512_loadu_ps(to)));
  }
}

// Up to BLOCK_ROWS rows of 8 bits, from a whole tile on, times a panel. sums: (rows / planes, PANEL).
inline void tiled_panel(const Quantized& x, long row, long rows, const EightBits& panel, float* sums) {
  alignas(64) int whole[2][16 * TILE_ROWS];
  const int8_t* const from = x.numbers.data() + row * x.width;
  const long apart = TILE_ROWS * x.width;
  std::fill(sums, sums + rows / x.planes * PANEL, 0.0f);
  for (long g = 0; g < x.groups; g++) {
    const uint8_t* w = panel.numbers + g * GROUP * PANEL;
    if (rows <= TILE_ROWS) fetch(w + GROUP * PANEL, GROUP * PANEL);
    for (long n = 0; n < PANEL; n += 16) {
      const __m512 scale = panel.scale(g, n);
      tile_load(6, w + 4 * n, ROW_OF_PANEL);
      tile_load(7, w + 4 * n + TILE_BYTES * PANEL, ROW_OF_PANEL);
      for (long r = 0; r < rows; r += 2 * TILE_ROWS) {
        const int8_t* its = from + r / TILE_ROWS * apart + g * 2 * TILE;
        const bool second = r + TILE_ROWS < rows;
        tile_zero(0);
        tile_load(2, its, TILE_BYTES);
        tile_load(3, its + TILE, TILE_BYTES);
        tile_dot_s8u8(0, 2, 6);
        tile_dot_s8u8(0, 3, 7);
        if (second) {
          tile_zero(1);
          tile_load(4, its + apart, TILE_BYTES);
          tile_load(5, its + apart + TILE, TILE_BYTES);
          tile_dot_s8u8(1, 4, 6);
          tile_dot_s8u8(1, 5, 7);
        }
        tile_store(0, whole[0], TILE_BYTES);
        float* to = sums + r / x.planes * PANEL + n;
        add_group(whole[0], x, row + r, std::min(TILE_ROWS, rows - r), g, scale, to);
        if (!second) continue;
        tile_store(1, whole[1], TILE_BYTES);
        to += TILE_ROWS / x.planes * PANEL;
        add_group(whole[1], x, row + r + TILE_ROWS, std::min(TILE_ROWS, rows - r - TILE_ROWS), g, scale, to);
      }
    }
  }
}

// As `quantized_product`, to the same bits.
template <typename Number, typename PanelOf>
void tiled_quantized_product(const Number* x, PanelOf panel_of, const float* bias, Number* y, long M, long N, long K,
                             long planes, int threads) {
  Quantized rows(M, K, planes, true);
  const long panels = (N + PANEL - 1) / PANEL, step = BLOCK_ROWS / planes;
  const TileConfig config;
#pragma omp parallel num_threads(threads)
  {
    tile_config(&config);
#pragma omp for
    for (long m = 0; m < M; m++) rows.set(m, x + m * K, K);
    alignas(64) float sums[BLOCK_ROWS * PANEL];
#pragma omp for collapse(2) schedule(dynamic)
    for (long chunk = 0; chunk < M; chunk += TILE_CHUNK)
      for (long p = 0; p < panels; p++) {
        const EightBits panel = panel_of(p, rows.groups);
        const long end = std::min(M, chunk + TILE_CHUNK);
        for (long m = chunk; m < end; m += step) {
          const long count = std::min(step, end - m);
          tiled_panel(rows, m * planes, count * planes, panel, sums);
          finish(sums, bias ? bias + p * PANEL : nullptr, y + m * N + p * PANEL, count, N, N - p * PANEL);
        }
      }
    tile_release();
  }
}

}  // namespace
