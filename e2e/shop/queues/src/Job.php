<?php

declare(strict_types=1);

namespace Shop;

use Illuminate\Contracts\Queue\ShouldQueue;

/** A job of Laravel's. */
final class Job implements ShouldQueue
{
    public ?int $timeout = null; // null: that of the worker

    public function __construct(public string $id, public int $milliseconds, public string $how)
    {
        if ($how === 'hang') {
            $this->timeout = 2;
        }
    }

    public function handle(): void
    {
        Work::do($this->id, $this->milliseconds, $this->how);
    }
}
