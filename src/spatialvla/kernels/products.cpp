// Linear layers on a CPU: y = x · wᵀ + bias, at the speed of the memory for few rows of x and of the vector units for many.
//
// x (M, K) and y (M, N) are bfloat16 or float32; sums are float32. Needs AVX-512 with BF16 and VNNI.

#include "eight_bits.h"
#include "operators.h"

namespace {

constexpr long STRETCH = 3072;  // of K in bfloat16: of a panel, what stays in a second-level cache

}  // namespace

extern "C" {

// w: (panels, K / 2, PANEL, 2). K is even.
void bf16_product(
    const Half* x, const Half* w, const float* bias, Half* y, long M, long N, long K, int threads) {
  const long panels = (N + PANEL - 1) / PANEL;
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
            const Half* part = w + (p * K + k) * PANEL;
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
  if (wide)
    quantized_product((const float*)x, panel_of, bias, (float*)y, M, N, K, planes, threads);
  else
    quantized_product((const Half*)x, panel_of, bias, (Half*)y, M, N, K, planes, threads);
}
}
