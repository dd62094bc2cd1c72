// Matrix units (Intel AMX): eight tiles of up to 16 rows of 64 bytes, and products of two that a third one adds up.
//
// The kernels are written once, over the operations below. These are the processor's own where the compiler knows them;
// with EMULATED_TILES they are plain C++ that gives the same results, so that the kernels can be run without such a
// processor; with neither there are no tiles. Numbers of tiles are literals: they are part of the instructions.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(EMULATED_TILES)
#include <cmath>
#elif defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#define COMPILED_TILES
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr long TILE_ROWS = 16, TILE_BYTES = 64;  // of a whole tile

// What `tile_config` reads: palette 1, and how many rows and bytes of a row each tile has.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};

  TileConfig() {
    for (int i = 0; i < 8; i++) bytes[i] = TILE_BYTES, rows[i] = TILE_ROWS;
  }
};
static_assert(sizeof(TileConfig) == 64);

#if defined(EMULATED_TILES)

inline bool has_tiles() { return true; }

struct Tiles {
  TileConfig config;
  bool ready = false;
  alignas(64) uint8_t data[8][TILE_ROWS][TILE_BYTES];
};
thread_local Tiles tiles;

inline void tile_config(const TileConfig* config) {
  memset(tiles.data, 0, sizeof(tiles.data));
  tiles.config = *config, tiles.ready = true;
}
inline void tile_release() { tiles.ready = false; }
inline void tile_zero(int t) { memset(tiles.data[t], 0, sizeof(tiles.data[t])); }
inline void tile_load(int t, const void* from, long stride) {
  tile_zero(t);
  if (!tiles.ready) return;
  for (int r = 0; r < tiles.config.rows[t]; r++)
    memcpy(tiles.data[t][r], (const uint8_t*)from + r * stride, tiles.config.bytes[t]);
}
inline void tile_store(int t, void* to, long stride) {
  for (int r = 0; r < tiles.config.rows[t]; r++)
    memcpy((uint8_t*)to + r * stride, tiles.data[t][r], tiles.config.bytes[t]);
}

// Four bytes of a row of a tile.
template <typename Number>
Number& element(int t, int row, int column) {
  static_assert(sizeof(Number) == 4);
  return *(Number*)(tiles.data[t][row] + 4 * column);
}
inline float without_denormals(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
inline float half_of(uint32_t pair, int which) {
  const uint32_t bits = which ? pair & 0xffff0000u : pair << 16;
  float value;
  memcpy(&value, &bits, 4);
  return without_denormals(value);
}

// sum += a · b of pairs of bfloat16: the first and the second of all pairs are each summed up in float32, then both added,
// then what was there before; rounded to the nearest, denormal numbers taken and given as 0.
inline void tile_dot_bf16(int sum, int a, int b) {
  for (int m = 0; m < tiles.config.rows[sum]; m++)
    for (int n = 0; n < tiles.config.bytes[sum] / 4; n++) {
      float parts[2] = {};
      for (int k = 0; k < tiles.config.bytes[a] / 4; k++)
        for (int i = 0; i < 2; i++) {
          const float x = half_of(element<uint32_t>(a, m, k), i), w = half_of(element<uint32_t>(b, k, n), i);
          parts[i] = without_denormals(std::fma(x, w, parts[i]));
        }
      float& whole = element<float>(sum, m, n);
      whole = without_denormals(without_denormals(whole) + without_denormals(parts[0] + parts[1]));
    }
}

// sum += a · b of four bytes each, signed in a and unsigned in b, in 32 bits, which wrap around.
inline void tile_dot_s8u8(int sum, int a, int b) {
  for (int m = 0; m < tiles.config.rows[sum]; m++)
    for (int n = 0; n < tiles.config.bytes[sum] / 4; n++)
      for (int k = 0; k < tiles.config.bytes[a]; k++)
        element<uint32_t>(sum, m, n) += (int8_t)tiles.data[a][m][k] * (int)tiles.data[b][k / 4][4 * n + k % 4];
}

#elif defined(COMPILED_TILES)

// Whether the processor has tiles with both kinds of products, and Linux lets this process use them: it saves their 8 KB
// with a thread's registers only after it was asked.
inline bool has_tiles() {
  static const bool there = [] {
    constexpr unsigned BF16 = 1u << 22, TILE = 1u << 24, INT8 = 1u << 25, ALL = BF16 | TILE | INT8;
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & ALL) != ALL) return false;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
  }();
  return there;
}

// GCC 12's intrinsics do not tell the compiler what memory they read.
#define after_stores(operation) (__extension__({ asm volatile("" ::: "memory"); operation; }))
#define tile_config(config) after_stores(_tile_loadconfig(config))
#define tile_release() _tile_release()
#define tile_zero(t) _tile_zero(t)
#define tile_load(t, from, stride) after_stores(_tile_loadd(t, from, stride))
#define tile_store(t, to, stride) _tile_stored(t, to, stride)
#define tile_dot_bf16(sum, a, b) _tile_dpbf16ps(sum, a, b)
#define tile_dot_s8u8(sum, a, b) _tile_dpbsud(sum, a, b)

#else

inline bool has_tiles() { return false; }
inline void tile_config(const TileConfig*) {}
inline void tile_release() {}
inline void tile_zero(int) {}
inline void tile_load(int, const void*, long) {}
inline void tile_store(int, void*, long) {}
inline void tile_dot_bf16(int, int, int) {}
inline void tile_dot_s8u8(int, int, int) {}

#endif

}  // namespace
