// Linear layers on a CPU: y = x · wᵀ + bias, at the speed of the memory for few rows of x and of what multiplies for many.
//
// Many rows go to the matrix units where the processor has them (`tile_products.h`), else to the vector units.
// x (M, K) and y (M, N) are bfloat16 or float32; sums are float32. Needs AVX-512 with BF16 and VNNI.

#include "operators.h"
#include "tile_products.h"

namespace {

constexpr long STRETCH = 3072;  // of K in bfloat16: of a panel, what stays in a second-level cache

}  // namespace

extern "C" {

// w: (panels, width / 2, PANEL, 2); width is K in whole tiles, zero behind K, which is even.
void bf16_product(
    const Half* x, const Half* w, const float* bias, Half* y, long M, long N, long K, int threads) {
  if (by_tiles(M)) return tiled_bf16_product(x, w, bias, y, M, N, K, threads);
  const long panels = (N + PANEL - 1) / PANEL, width = up(K, TILE_HALVES);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> sums(std::min(M, CHUNK) * PANEL);
#pragma omp for collapse(2) schedule(dynamic)
    for (long chunk = 0; chunk < M; chunk += CHUNK)
      for (long p = 0; p < panels; p++) {
        long rows = std::min(CHUNK, M - chunk);
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (long k = 0; k < K; k += STRETCH)
          for (long m = 0; m < rows; m += ROWS) {
            const Half* from = x + (chunk + m) * K + k;
            const Half* part = w + (p * width + k) * PANEL;
            long depth = std::min(STRETCH, K - k);
            with_rows(rows - m, [&](auto R) { multiply<R>(from, K, part, depth, sums.data() + m * PANEL); });
          }
        const float* panel_bias = bias ? bias + p * PANEL : nullptr;
        finish(sums.data(), panel_bias, y + chunk * N + p * PANEL, rows, N, N - p * PANEL);
      }
  }
}

// w: (panels, width / 4, PANEL, 4), the 8-bit weight plus 128; width is K in whole groups. scales: (panels, groups, PANEL).
// planes: 1 takes x in 8 bits, 2 in 16, with a scale for each group of a row. wide: x and y are float32, not bfloat16.
void int8_product(const void* x, const uint8_t* w, const float* scales, const float* bias, void* y, long M, long N,
                  long K, long planes, int wide, int threads) {
  const long width = (K + GROUP - 1) / GROUP * GROUP;
  const auto panel_of = [=](long p, long groups) {
    return EightBits{w + p * width * PANEL, scales + p * groups * PANEL};
  };
  const auto multiplied = [=](auto* x, auto* y) {
    if (by_tiles(M * planes))
      tiled_quantized_product(x, panel_of, bias, y, M, N, K, planes, threads);
    else
      quantized_product(x, panel_of, bias, y, M, N, K, planes, threads);
  };
  if (wide)
    multiplied((const float*)x, (float*)y);
  else
    multiplied((const Half*)x, (Half*)y);
}

// 1 where the matrix units are used, 0 where the processor or Linux does not allow it, -1 where they were not compiled.
int matrix_units() {
#if defined(COMPILED_TILES) || defined(EMULATED_TILES)
  return has_tiles();
#else
  return -1;
#endif
}
}
