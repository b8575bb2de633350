/** Closes every one, even if one of them fails to; the first failure is then thrown. */
export async function closeAll(
  all: readonly ({ close(): void | Promise<void> } | undefined)[],
): Promise<void> {
  const closed = await Promise.allSettled(all.map(async (each) => each?.close()));
  for (const result of closed) if (result.status === 'rejected') throw result.reason;
}
