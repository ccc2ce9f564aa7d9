/* A qemu-user plugin: how many guest instructions a program has executed, all threads together, at each clock_gettime it
 * calls: the total, then those of each class of isa.h, on one line of stderr. The harness reads the clock before and after
 * each inference it times.
 *
 * qemu's plugin header is not packaged by Debian, so what is used of its plugin API is declared here, from its
 * documentation. QEMU_API is the version of that API: 1 for qemu up to 8, 2 for 9.0, 3 since. A whole translation block
 * is counted when it is entered: exact, but for the instructions behind a fault inside a block.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa.h"

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { CB_NO_REGS = 0, kClockGettime = 113 /* on aarch64 */ };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*cb)(qemu_plugin_id_t, struct qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb* tb, void (*cb)(unsigned, void*), int flags, void* data);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t id,
                                          void (*cb)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                     uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* tb);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb* tb, size_t index);
#if QEMU_API >= 3
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn* insn, void* to, size_t size);
#else
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn* insn);
#endif

EXPORT int qemu_plugin_version = QEMU_API;

/* Blocks are translated under qemu's lock, and run by one thread at a time while an inference on one thread runs. */
struct Block {
    struct Block* next;
    uint64_t entered;
    uint32_t size;
    uint16_t of[MK_ISA_COUNT];
};

static struct Block* blocks;

static void entered(unsigned cpu, void* data) {
    (void)cpu;
    ((struct Block*)data)->entered++;
}

static uint32_t word_of(const struct qemu_plugin_insn* insn) {
    uint32_t word = 0;
#if QEMU_API >= 3
    qemu_plugin_insn_data(insn, &word, sizeof(word));
#else
    memcpy(&word, qemu_plugin_insn_data(insn), sizeof(word));
#endif
    return word;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
    (void)id;
    struct Block* block = calloc(1, sizeof(*block));
    if (block == NULL) abort();
    block->size = (uint32_t)qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < block->size; i++) block->of[mk_isa(word_of(qemu_plugin_tb_get_insn(tb, i)))]++;
    block->next = __atomic_load_n(&blocks, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&blocks, &block->next, block, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, entered, CB_NO_REGS, block);
}

static void called(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)cpu, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number != kClockGettime) return;
    uint64_t total = 0, of[MK_ISA_COUNT] = {0};
    for (const struct Block* block = __atomic_load_n(&blocks, __ATOMIC_ACQUIRE); block != NULL; block = block->next) {
        total += block->entered * block->size;
        for (int i = 0; i < MK_ISA_COUNT; i++) of[i] += block->entered * block->of[i];
    }
    char line[32 * (MK_ISA_COUNT + 2)];
    int at = snprintf(line, sizeof(line), "mobilekit-count %" PRIu64, total);
    for (int i = 0; i < MK_ISA_COUNT; i++) at += snprintf(line + at, sizeof(line) - (size_t)at, " %" PRIu64, of[i]);
    fprintf(stderr, "%s\n", line);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void* info, int argc, char** argv) {
    (void)info;
    (void)argc;
    (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
